# The image and its size are given where the job is run.
variable "release" {
  type    = string
  default = "12"
}

variable "memory" {
  type        = number
  default     = 1024
  description = "in MiB"
}

variable "ports" {
  type    = map(number)
  default = { http = 8080, ssh = 22 }
}

locals {
  image = "${local.base}/debian-${var.release}.qcow2"
  base  = "https://images.example"
  tags  = ["web", upper("x")]
}

job "debian" {
  datacenters = ["dc1"]

  meta {
    release = var.release
    memory  = var.memory
    tags    = join(",", local.tags)
  }

  constraint {
    attribute = "${attr.kernel.name}"
    value     = "linux"
  }

  constraint {
    attribute = "${meta.rack}"
    operator  = "!="
    value     = "r1"
  }

  group "vm" {
    network {
      port "http" {}
      port "ssh" { static = 2222 }
    }

    task "debian" {
      driver = "qemu"
      config {
        image_source = local.image
        checksum     = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        port_map = {
          http = var.ports["http"]
          ssh  = var.ports.ssh
        }
      }
      resources {
        memory = var.memory * 2
        cores  = var.release == "12" ? 2 : 1
      }
    }
  }
}
