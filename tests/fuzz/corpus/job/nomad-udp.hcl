job "dns" {
  group "vm" {
    count = 2
    network {
      port "dns" {
        static = 5353
      }
      port "metrics" {
        to = "9153"
      }
    }

    task "dns" {
      driver = "qemu"
      config {
        image_source = "https://images.example/dns.qcow2"
        checksum     = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        port_map {
          dns = { guest = 53, protocol = "udp" }
        }
      }
      resources {
        memory = "128"
      }
    }

    task "logs" {
      driver = "docker"
      lifecycle {
        hook    = "poststart"
        sidecar = true
      }
      config {
        image = "fluentbit"
      }
    }
  }
}
