//! The table of the tests of jobs for Nomad.

use super::*;
use crate::launch::{AccessLevel, Architecture, MachineKind};

/// A row for a key of a config block with a wrong value, and a word of the problem.
macro_rules! refused {
    ($key:literal, $value:tt, $word:literal) => {
        row(
            concat!("/TaskGroups/0/Tasks/0/Config/", $key),
            json!($value),
            Problem(concat!("/TaskGroups/0/Tasks/0/Config/", $key), $word),
        )
    };
}

pub(super) fn rows() -> Vec<Row> {
    let second = 1_000_000_000_u64;
    let zeros = "0".repeat(64);
    vec![
        // Rows for the job.
        row("/Stop", json!(false), Ignored(&[])),
        row("/Stop", json!(true), Problem("/Stop", "was stopped")),
        row("/ParameterizedJob", json!(null), Ignored(&[])),
        row(
            "/ParameterizedJob",
            json!({"Payload": ""}),
            Problem("/ParameterizedJob", "dispatched"),
        ),
        row("/Periodic", json!({"Enabled": true, "Spec": "@daily"}), Problem("/Periodic", "timer")),
        row("/Periodic", json!({"Spec": "@daily"}), Problem("/Periodic", "timer")),
        row("/Periodic", json!({"Enabled": false, "Spec": "@daily"}), Ignored(&[])),
        row("/Payload", json!("aGk="), Problem("/Payload", "dispatched")),
        row("/Type", json!("system"), Ignored(&[])),
        row("/Type", json!("cron"), Problem("/Type", "one of service, batch")),
        row("/Datacenters", json!(["*"]), Ignored(&[])),
        row("/Datacenters", json!(["dc1"]), Ignored(&["/Datacenters"])),
        row("/Priority", json!(50), Ignored(&[])),
        row("/Priority", json!(80), Ignored(&["/Priority"])),
        row("/Region", json!("global"), Ignored(&[])),
        row("/Namespace", json!("prod"), Ignored(&["/Namespace"])),
        row("/Affinities", json!([]), Ignored(&[])),
        row("/Affinities", json!([{"LTarget": "x"}]), Ignored(&["/Affinities"])),
        row(
            "/Update",
            json!({"Stagger": 30 * second, "MaxParallel": 1, "HealthCheck": ""}),
            Ignored(&[]),
        ),
        row("/Update", json!({"MaxParallel": 2}), Ignored(&["/Update"])),
        row("/ConsulToken", json!("secret"), Ignored(&["/ConsulToken"])),
        row("/VersionTag", json!({"Name": "x"}), Ignored(&[])),
        // Rows for the group.
        row("/TaskGroups/0/Count", json!(1), Ignored(&[])),
        row("/TaskGroups/0/Count", json!(1.0), Ignored(&[])),
        row("/TaskGroups/0/Count", json!(3), Ignored(&["/TaskGroups/0/Count"])),
        row("/TaskGroups/0/Count", json!(0), Problem("/TaskGroups/0/Count", "one VM")),
        row("/TaskGroups/0/Count", json!("1"), Problem("/TaskGroups/0/Count", "one VM")),
        row("/TaskGroups/0/EphemeralDisk", json!({"SizeMB": 300, "Sticky": false}), Ignored(&[])),
        row(
            "/TaskGroups/0/EphemeralDisk",
            json!({"SizeMB": 300, "Sticky": true}),
            Ignored(&["/TaskGroups/0/EphemeralDisk"]),
        ),
        row("/TaskGroups/0/Services", json!([{"Name": "x"}]), Ignored(&["/TaskGroups/0/Services"])),
        row(
            "/TaskGroups/0/Services",
            json!([{"Name": "x", "Connect": {"SidecarService": {}}}]),
            Problem("/TaskGroups/0/Services/0/Connect", "mesh"),
        ),
        row(
            "/TaskGroups/0/Services",
            json!([{"Name": "x", "Connect": null}]),
            Ignored(&["/TaskGroups/0/Services"]),
        ),
        row("/TaskGroups/0/Volumes", json!({"x": {}}), Ignored(&["/TaskGroups/0/Volumes"])),
        // Rows for the group's networks.
        row("/TaskGroups/0/Networks/0/Mode", json!("host"), Ignored(&[])),
        row(
            "/TaskGroups/0/Networks/0/Mode",
            json!("bridge"),
            Ignored(&["/TaskGroups/0/Networks/0/Mode"]),
        ),
        row(
            "/TaskGroups/0/Networks/0/Mode",
            json!("cni/x"),
            Problem("/TaskGroups/0/Networks/0/Mode", "user-mode"),
        ),
        row(
            "/TaskGroups/0/Networks/0/DNS",
            json!({"Servers": ["1.1.1.1"]}),
            Problem("/TaskGroups/0/Networks/0/DNS", "user-mode"),
        ),
        row(
            "/TaskGroups/0/Networks/0/ReservedPorts",
            json!([{"Label": "a", "Value": 2222, "To": -1}]),
            Is(|task| task.asked.ports[0].guest == 2222 && task.asked.ports[0].host == Some(2222)),
        ),
        row(
            "/TaskGroups/0/Networks/0/ReservedPorts",
            json!([{"Label": "a", "Value": "2222", "To": "22"}]),
            Is(|task| task.asked.ports[0].guest == 22 && task.asked.ports[0].host == Some(2222)),
        ),
        row(
            "/TaskGroups/0/Networks/0/DynamicPorts",
            json!([{"Label": "a", "To": -1}]),
            Problem("/TaskGroups/0/Networks/0/DynamicPorts/0", "-1 says it where"),
        ),
        row(
            "/TaskGroups/0/Networks/0/DynamicPorts",
            json!([{"Label": "a", "To": -2}]),
            Problem("/TaskGroups/0/Networks/0/DynamicPorts/0/To", "from 1 to 65535"),
        ),
        row(
            "/TaskGroups/0/Networks/0/DynamicPorts",
            json!([{"Label": "a", "To": 80.5}]),
            Problem("/TaskGroups/0/Networks/0/DynamicPorts/0/To", "80.5"),
        ),
        row(
            "/TaskGroups/0/Networks/0/DynamicPorts",
            json!([{"Label": "a", "To": 80, "HostNetwork": "public"}]),
            Ignored(&["/TaskGroups/0/Networks/0/DynamicPorts/0/HostNetwork"]),
        ),
        row(
            "/TaskGroups/0/Networks/0",
            json!({"IP": "192.0.2.7", "DynamicPorts": [{"Label": "a", "To": 80}]}),
            Is(|task| task.asked.ports[0].bind == Some([192, 0, 2, 7].into())),
        ),
        row(
            "/TaskGroups/0/Networks/0/IP",
            json!("2001:db8::7"),
            Problem("/TaskGroups/0/Networks/0/IP", "an IPv4 address of the host"),
        ),
        // Rows for the task.
        row(
            "/TaskGroups/0/Tasks/0/KillTimeout",
            json!(90 * second),
            Is(|task| grace(task) == Some(90)),
        ),
        row(
            "/TaskGroups/0/Tasks/0/KillTimeout",
            json!(5 * second + 1),
            Is(|task| grace(task) == Some(6)),
        ),
        row("/TaskGroups/0/Tasks/0/KillTimeout", json!(5e9), Is(|task| grace(task) == Some(5))),
        row(
            "/TaskGroups/0/Tasks/0/KillTimeout",
            json!("1m30s"),
            Is(|task| grace(task) == Some(90)),
        ),
        row("/TaskGroups/0/Tasks/0/KillTimeout", json!("500ms"), Is(|task| grace(task) == Some(1))),
        row("/TaskGroups/0/Tasks/0/KillTimeout", json!(0), Is(|task| grace(task).is_none())),
        row(
            "/TaskGroups/0/Tasks/0/KillTimeout",
            json!(3600 * second),
            Is(|task| grace(task) == Some(3600)),
        ),
        row(
            "/TaskGroups/0/Tasks/0/KillTimeout",
            json!(3601 * second),
            Problem("/TaskGroups/0/Tasks/0/KillTimeout", "3600 s"),
        ),
        row(
            "/TaskGroups/0/Tasks/0/KillTimeout",
            json!(-1),
            Problem("/TaskGroups/0/Tasks/0/KillTimeout", "nanoseconds"),
        ),
        row(
            "/TaskGroups/0/Tasks/0/KillTimeout",
            json!("soon"),
            Problem("/TaskGroups/0/Tasks/0/KillTimeout", "30s"),
        ),
        row("/TaskGroups/0/Tasks/0/KillSignal", json!(""), Ignored(&[])),
        row("/TaskGroups/0/Tasks/0/KillSignal", json!("SIGINT"), Ignored(&[])),
        row(
            "/TaskGroups/0/Tasks/0/KillSignal",
            json!("SIGKILL"),
            Problem("/TaskGroups/0/Tasks/0/KillSignal", "power button"),
        ),
        row("/TaskGroups/0/Tasks/0/User", json!(""), Ignored(&[])),
        row(
            "/TaskGroups/0/Tasks/0/User",
            json!("root"),
            Problem("/TaskGroups/0/Tasks/0/User", "operator"),
        ),
        row(
            "/TaskGroups/0/Tasks/0/Lifecycle",
            json!({"Hook": "prestart"}),
            Problem("/TaskGroups/0/Tasks/0/Lifecycle", "alone"),
        ),
        row(
            "/TaskGroups/0/Tasks/0/Vault",
            json!({"Role": "x"}),
            Problem("/TaskGroups/0/Tasks/0/Vault", "token"),
        ),
        row(
            "/TaskGroups/0/Tasks/0/Schedule",
            json!({"Cron": {}}),
            Problem("/TaskGroups/0/Tasks/0/Schedule", "timer"),
        ),
        row(
            "/TaskGroups/0/Tasks/0/Identity",
            json!({"Name": "default", "Audience": ["nomadproject.io"], "Env": false}),
            Ignored(&[]),
        ),
        row(
            "/TaskGroups/0/Tasks/0/Identity",
            json!({"Name": "default", "Env": true}),
            Ignored(&["/TaskGroups/0/Tasks/0/Identity"]),
        ),
        row(
            "/TaskGroups/0/Tasks/0/LogConfig",
            json!({"MaxFiles": 10, "MaxFileSizeMB": 10}),
            Ignored(&[]),
        ),
        row(
            "/TaskGroups/0/Tasks/0/LogConfig",
            json!({"MaxFiles": 2, "MaxFileSizeMB": 10}),
            Ignored(&["/TaskGroups/0/Tasks/0/LogConfig"]),
        ),
        row("/TaskGroups/0/Tasks/0/Resources/CPU", json!(100), Ignored(&[])),
        row(
            "/TaskGroups/0/Tasks/0/Resources/CPU",
            json!(4000),
            Ignored(&["/TaskGroups/0/Tasks/0/Resources/CPU"]),
        ),
        row(
            "/TaskGroups/0/Tasks/0/Resources/MemoryMB",
            json!(512.0),
            Is(|task| task.asked.resources.memory_mib == 512),
        ),
        row(
            "/TaskGroups/0/Tasks/0/Resources/MemoryMB",
            json!(512.5),
            Problem("/TaskGroups/0/Tasks/0/Resources/MemoryMB", "512.5"),
        ),
        row(
            "/TaskGroups/0/Tasks/1",
            json!({"Name": "x", "Driver": "docker"}),
            Ignored(&["/TaskGroups/0/Tasks/1"]),
        ),
        // Rows for restarts.
        row(
            "/TaskGroups/0/RestartPolicy",
            json!({"Attempts": 2, "Interval": 1800 * second, "Delay": 15 * second, "Mode": "fail"}),
            Is(|task| {
                task.restart == restart(RestartWhen::Always, 2, 15, 15)
                    && task.not_looked_at.is_empty()
            }),
        ),
        row(
            "/TaskGroups/0/RestartPolicy",
            json!({}),
            Is(|task| task.restart == restart(RestartWhen::Always, 2, 15, 15)),
        ),
        row(
            "/TaskGroups/0/RestartPolicy",
            json!({"Attempts": 0}),
            Is(|task| task.restart.policy == RestartWhen::Never),
        ),
        row(
            "/TaskGroups/0/RestartPolicy",
            json!({"Mode": "delay", "Delay": "20s"}),
            Is(|task| {
                task.restart == restart(RestartWhen::Always, limits::RESTART_ATTEMPTS_MOST, 20, 60)
            }),
        ),
        row(
            "/TaskGroups/0/RestartPolicy",
            json!({"Mode": "always"}),
            Problem("/TaskGroups/0/RestartPolicy/Mode", "fail, delay"),
        ),
        row(
            "/TaskGroups/0/RestartPolicy",
            json!({"Attempt": 1}),
            Problem("/TaskGroups/0/RestartPolicy/Attempt", "Attempts"),
        ),
        row(
            "/TaskGroups/0/RestartPolicy",
            json!({"Interval": 60 * second}),
            Ignored(&["/TaskGroups/0/RestartPolicy/Interval"]),
        ),
        row(
            "/TaskGroups/0/Tasks/0/Config/restart",
            json!("on-failure"),
            Is(|task| task.restart.policy == RestartWhen::OnFailure),
        ),
        // Rows for constraints.
        row(
            "/Constraints",
            json!([{"LTarget": "${attr.kernel.name}", "RTarget": "linux", "Operand": "="}]),
            Ignored(&[]),
        ),
        row(
            "/Constraints",
            json!([{"LTarget": "${attr.kernel.name}", "RTarget": "linux"}]),
            Ignored(&[]),
        ),
        row(
            "/Constraints",
            json!([{"LTarget": "${attr.kernel.name}", "RTarget": "windows", "Operand": "!="}]),
            Ignored(&[]),
        ),
        row(
            "/Constraints",
            json!([{"LTarget": "${attr.kernel.name}", "RTarget": "windows"}]),
            Problem("/Constraints/0", "linux"),
        ),
        row(
            "/Constraints",
            json!([{"LTarget": "${attr.driver.qemu}", "RTarget": "true"}]),
            Ignored(&[]),
        ),
        row(
            "/Constraints",
            json!([{"LTarget": "${attr.driver.qemu}", "Operand": "is_set"}]),
            Ignored(&[]),
        ),
        row(
            "/Constraints",
            json!([{"LTarget": "${attr.driver.qemu}", "Operand": "is_not_set"}]),
            Problem("/Constraints/0", "is_not_set"),
        ),
        row(
            "/Constraints",
            json!([{"LTarget": "${attr.cpu.arch}", "RTarget": "s390x"}]),
            Problem("/Constraints/0", "s390x"),
        ),
        row(
            "/Constraints",
            json!([{"LTarget": "${attr.cpu.arch}", "RTarget": "amd64,arm64", "Operand": "set_contains_any"}]),
            Ignored(&[]),
        ),
        row(
            "/Constraints",
            json!([{"Operand": "distinct_hosts", "RTarget": "true"}]),
            Ignored(&[]),
        ),
        row(
            "/Constraints",
            json!([{"LTarget": "${meta.rack}", "RTarget": "r1"}]),
            Ignored(&["/Constraints/0"]),
        ),
        row(
            "/TaskGroups/0/Tasks/0/Constraints",
            json!([{"LTarget": "${attr.kernel.version}", "RTarget": ">= 6.1", "Operand": "version"}]),
            Ignored(&["/TaskGroups/0/Tasks/0/Constraints/0"]),
        ),
        row("/Constraints", json!([{"LTarget": 1}]), Problem("/Constraints/0/LTarget", "text")),
        // Rows for the config block.
        refused!("guest_ports", ["80"], "host_port"),
        refused!("graceful_shutdown", true, "kill_timeout"),
        row(
            "/TaskGroups/0/Tasks/0/Config/guest_agent",
            json!(true),
            Is(|task| task.asked.access.agent == AccessLevel::Interact),
        ),
        refused!("guest_agent", "interact", "watch"),
        row(
            "/TaskGroups/0/Tasks/0/Config/machine_type",
            json!("q35"),
            Is(|task| task.asked.machine.kind == MachineKind::Q35),
        ),
        refused!("machine_type", "microvm", "pc, q35"),
        refused!("machine_type", "pc-q35-8.2", "\"q35\": a guest has the newest version"),
        refused!("machine_type", "pc-i440fx-9.0", "\"pc\": "),
        refused!("cpu", "max,+vmx", "alone"),
        refused!("nested", 1, "true or false"),
        refused!("default_user_password", "secret", "hash"),
        refused!("os", [{"arch": "x86_64"}], "machine_type"),
        refused!("disk", [{"size": "10GiB"}], "disk_bytes"),
        refused!("network_interface", [{"bridge": [{"name": "virbr0"}]}], "port_map"),
        refused!("drive_interface", "ide", "virtio"),
        refused!("emulator", "arm", "qemu-system-x86_64, qemu-system-aarch64"),
        refused!("architecture", "arm64", "x86_64, aarch64"),
        refused!("machine_type", "virt", "the guest's architecture is x86_64"),
        row(
            "/TaskGroups/0/Tasks/0/Config/emulator",
            json!("qemu-system-aarch64"),
            Is(|task| {
                let (machine, firmware) = (&task.asked.machine, task.asked.firmware);
                (machine.architecture, machine.kind) == (Architecture::Aarch64, MachineKind::Virt)
                    && firmware == Some(crate::host_facts::AARCH64_FIRMWARE)
            }),
        ),
        row(
            "/TaskGroups/0/Tasks/0/Config/emulator",
            json!("qemu-system-x86_64"),
            Is(|task| task.asked.machine.kind == MachineKind::Pc && task.asked.firmware.is_none()),
        ),
        refused!("image_path", "x", "image_source"),
        row(
            "/TaskGroups/0/Tasks/0/Config",
            json!({"image_path": "local/x.img"}),
            Problem("/TaskGroups/0/Tasks/0/Config/image_path", "sha256sum"),
        ),
        refused!("image_source", "http://${attr.unique.network.ip-address}/x", "agent"),
        row(
            "/TaskGroups/0/Tasks/0/Artifacts",
            json!([{"GetterSource": "https://x.example/a"}]),
            Problem("/TaskGroups/0/Tasks/0/Artifacts", "into the image"),
        ),
        row(
            "/TaskGroups/0/Tasks/0",
            json!({
                "Name": "vm", "Driver": "qemu", "Resources": {"MemoryMB": 64},
                "Config": {"image_path": "${NOMAD_TASK_DIR}/x.img"},
                "Artifacts": [{
                    "GetterSource": "https://x.example/y/x.img.xz", "RelativeDest": "local",
                    "GetterOptions": {"checksum": format!("sha256:{zeros}")},
                }],
            }),
            Is(|task| task.image.source.as_str() == "https://x.example/y/x.img.xz"),
        ),
        row(
            "/TaskGroups/0/Tasks/0",
            json!({
                "Name": "vm", "Driver": "qemu", "Resources": {"MemoryMB": 64},
                "Config": {"image_path": "local/disk.img"},
                "Artifacts": [{
                    "GetterSource": "https://x.example/download?id=1", "RelativeDest": "local/disk.img",
                    "GetterMode": "file", "GetterOptions": {"checksum": format!("sha256:{zeros}")},
                }],
            }),
            Is(|task| task.image.source.query() == Some("id=1")),
        ),
        row(
            "/TaskGroups/0/Tasks/0",
            json!({
                "Name": "vm", "Driver": "qemu", "Resources": {"MemoryMB": 64},
                "Config": {"image_path": "local/other.img"},
                "Artifacts": [{
                    "GetterSource": "https://x.example/x.img",
                    "GetterOptions": {"checksum": format!("sha256:{zeros}")},
                }],
            }),
            Problem("/TaskGroups/0/Tasks/0/Config/image_path", "https://x.example/x.img"),
        ),
        row(
            "/TaskGroups/0/Tasks/0",
            json!({
                "Name": "vm", "Driver": "qemu", "Resources": {"MemoryMB": 64},
                "Config": {"image_path": "local/x.img"},
                "Artifacts": [{
                    "GetterSource": "https://x.example/x.img", "GetterOptions": {"checksum": "md5:00"},
                }],
            }),
            Problem("/TaskGroups/0/Tasks/0/Artifacts/0/GetterOptions/checksum", "sha256sum"),
        ),
    ]
}
