variable "image" {
  type = string
}

job "web" {
  group "vm" {
    task "web" {
      driver = "qemu"
      config {
        image_source = var.image
        checksum     = file("web.sha256")
        args         = [for n in [1, 2] : "-x${n}"]
        port_map     = { http = local.port }
      }
      meta {
        host = "${node.unique.name}"
      }
      resources {
        memory = 256
      }
    }
  }
}
