# The rules of guest-policies/standard.
package qhost

import rego.v1

in_use := {port | some port in input.host.ports_in_use}

free := [port |
	some port in numbers.range(input.settings.first, input.settings.last)
	not port in in_use
]

default accelerator := "tcg"

accelerator := input.task.accelerator if input.task.accelerator != null

accelerator := "kvm" if {
	input.task.accelerator == null
	"kvm" in input.host.accelerators
}

memory := min([input.task.resources.memory_mib, input.settings.memory_mib])

warnings contains message if {
	input.task.resources.memory_mib > input.settings.memory_mib
	message := sprintf("memory was lowered to %d MiB", [input.settings.memory_mib])
}

open_ports := [port | some port in input.task.ports; port.host == null]

host_port(port) := port.host if port.host != null

host_port(port) := free[index] if {
	port.host == null
	some index, candidate in open_ports
	candidate.label == port.label
}

ports := [map |
	some port in input.task.ports
	map := {"label": port.label, "guest": port.guest, "host": host_port(port), "bind": "127.0.0.1", "protocol": port.protocol}
]

launch := {
	"accelerator": accelerator,
	"ports": ports,
	"resources": {"cpus": input.task.resources.cpus, "memory_mib": memory},
	"egress": input.task.egress,
	"warnings": [message | some message in warnings],
}

image_host := split(split(input.task.image.source, "://")[1], "/")[0]

violations contains {"code": "image-not-trusted", "field": "image.source", "message": message} if {
	not image_host in input.settings.hosts
	message := sprintf("%s is not a trusted image host", [image_host])
}

violations contains {"code": "port-out-of-range", "field": "ports", "message": message} if {
	some port in launch.ports
	not in_range(port)
	message := sprintf("%s is not on a port of the range", [port.label])
}

in_range(port) if {
	port.host >= input.settings.first
	port.host <= input.settings.last
}

decision := {"launch": launch, "violations": violations}
