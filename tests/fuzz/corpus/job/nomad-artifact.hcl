job "linux" {
  datacenters = ["dc1"]
  type        = "service"

  group "vm" {
    network {
      port "ssh" {
        to = 22
      }
    }

    task "linux" {
      driver = "qemu"

      artifact {
        source      = "https://images.example/linux-0.2.img.xz"
        destination = "local/"
        options {
          checksum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        }
      }

      config {
        image_path  = "local/linux-0.2.img"
        accelerator = "kvm"
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
