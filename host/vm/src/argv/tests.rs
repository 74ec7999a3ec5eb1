//! A launch, and the options that QEMU gets for it.

use qhost_model::{
    host_facts::Resources,
    launch::{Access, Disk, DiskName, Firmware, Grace, MachineKind, Nic, Protocol, Rate},
};

use super::*;
use crate::files::{disk_file, disk_overlay};

fn launch() -> Launch {
    Launch {
        accelerator: Accelerator::Tcg,
        ports: vec![],
        resources: Resources { cpus: 2, memory_mib: 64 },
        egress: Egress::Isolated,
        disk_bytes: None,
        disk_rate: Rate::default(),
        persist: false,
        disks: vec![],
        seed: None,
        firmware: Firmware::default(),
        machine: Machine::default(),
        nics: vec![Nic { name: "net".into(), network: "user".into() }],
        access: Access::default(),
        grace_s: Grace::default(),
        warnings: vec![],
        extensions: vec![],
    }
}

/// The files of a launch's disks.
fn disks_of(launch: &Launch) -> Vec<DiskOf> {
    let of = |disk: &Disk| {
        let image = disk.image.as_ref().map(|image| crate::ImageOf {
            path: "/images/1".into(),
            sha256: image.sha256,
            format: if disk.cdrom { Format::Iso } else { Format::Qcow2 },
            disk_bytes: 1 << 20,
        });
        let path = match &image {
            Some(image) if disk.read_only => image.path.clone(),
            Some(_) => disk_overlay(&disk.name).into(),
            None => disk_file(&disk.name).into(),
        };
        let (name, bytes) = (disk.name.clone(), disk.bytes.unwrap_or(1 << 20));
        DiskOf { name, path, image, bytes, read_only: disk.read_only }
    };
    launch.disks.iter().map(of).collect()
}

fn disk(name: &str) -> Disk {
    Disk {
        name: DiskName::try_from(name.to_owned()).unwrap(),
        bytes: Some(1 << 20),
        volume: None,
        image: None,
        cdrom: false,
        read_only: false,
        rate: Rate::default(),
    }
}

fn forward(protocol: Protocol, host: u16) -> Forward {
    let (label, bind) = ("x,y=z".into(), [127, 0, 0, 1].into());
    Forward { label, bind, host, guest: 80, protocol }
}

/// A launch, an image's format and forwarded ports, and the options that the command line is to have.
struct Row {
    launch: Launch,
    format: Format,
    forwards: Vec<Forward>,
    has: &'static [&'static str],
}

#[test]
fn each_choice_is_an_option() {
    let raw = |launch, has| Row { launch, format: Format::Raw, forwards: vec![], has };
    let of = |format, has| Row { launch: launch(), format, forwards: vec![], has };
    let rows = [
        raw(launch(), &["guest=a,,b", "cpus=2", "size=64M", "tcg,thread=multi,tb-size=64"]),
        raw(Launch { accelerator: Accelerator::Kvm, ..launch() }, &["kvm"]),
        raw(launch(), &["pc,usb=off,dump-guest-core=off,graphics=off", "max,vmx=off,svm=off"]),
        raw(
            Launch {
                machine: Machine {
                    kind: MachineKind::Q35,
                    cpu: "host".into(),
                    nested: true,
                    ..Machine::default()
                },
                ..launch()
            },
            &["q35,usb=off,dump-guest-core=off,graphics=off", "host"],
        ),
        raw(launch(), &["user,id=net,ipv6=off,restrict=on"]),
        raw(
            Launch { egress: Egress::Internet, ..launch() },
            &["user,id=net,ipv6=off,restrict=off"],
        ),
        of(Format::Raw, &["fd=5,set=5", "fd=6,set=6"]),
        of(Format::Qcow2, &["fd=5,set=5", "fd=6,set=6"]),
        of(Format::Iso, &["fd=5,set=5", "ide-cd,drive=image,bootindex=0"]),
        Row {
            forwards: vec![forward(Protocol::Tcp, 2000), forward(Protocol::Udp, 2001)],
            ..raw(
                launch(),
                &[
                    "user,id=net,ipv6=off,restrict=on,hostfwd=tcp:127.0.0.1:2000-:80,hostfwd=udp:127.0.0.1:2001-:80",
                ],
            )
        },
    ];
    for (number, row) in rows.into_iter().enumerate() {
        let found = argv(
            Path::new("/vms/a,b"),
            &row.launch,
            &[],
            &["-extra".into()],
            row.format,
            &row.forwards,
        );
        for option in row.has {
            assert!(found.iter().any(|one| one == option), "row {number}: no {option}");
        }
        assert_eq!(found.last().map(String::as_str), Some("-extra"));
        let writes = found.iter().any(|one| one == "fd=6,set=6");
        assert_eq!(writes, row.format != Format::Iso, "row {number}: an overlay");
    }
}

#[test]
fn disks_are_in_the_order_of_the_launch_and_the_seed_is_behind_them() {
    let disk =
        |name, read_only| Disk { bytes: None, volume: Some("db".into()), read_only, ..disk(name) };
    let launch = Launch { disks: vec![disk("b", false), disk("a", true)], ..launch() };
    let found = argv(Path::new("/vms/vm"), &launch, &disks_of(&launch), &[], Format::Raw, &[]);
    let with = |start: &str| -> Vec<&String> {
        found.iter().filter(|one| one.starts_with(start)).collect()
    };
    assert_eq!(with("fd="), ["fd=5,set=5", "fd=6,set=6", "fd=7,set=7", "fd=8,set=8"]);
    let devices = with("virtio-blk-pci");
    let names: Vec<_> = devices.iter().filter_map(|device| device.split(',').nth(2)).collect();
    assert_eq!(names, ["bootindex=0", "serial=b", "serial=a"]);
    let node = |name: &str| {
        let nodes = found.iter().filter_map(|one| serde_json::from_str(one).ok());
        nodes.into_iter().find(|node: &serde_json::Value| node["node-name"] == name).unwrap()
    };
    for (name, descriptor, read_only) in [("data0", 7, false), ("data1", 8, true)] {
        let node = node(name);
        assert_eq!(node["read-only"], read_only);
        assert_eq!(node["file"]["read-only"], read_only);
        assert_eq!(node["file"]["filename"], format!("/dev/fdset/{descriptor}"));
    }
    let of = |disks, seed, uefi, agent| Further::of(Parts { disk_files: disks, seed, uefi, agent });
    let further = |seed, uefi, agent, first_free| Further { seed, uefi, agent, first_free };
    assert_eq!(of(0, false, false, false), further(None, None, None, 7));
    assert_eq!(of(2, true, false, true), further(Some(9), None, Some(10), 11));
    assert_eq!(of(2, true, true, true), further(Some(9), Some([10, 11]), Some(12), 13));
    assert_eq!(of(1, false, true, false), further(None, Some([8, 9]), None, 10));
}

#[test]
fn a_limited_disk_is_asked_through_a_throttle_group() {
    let rate = |operations, kib| Rate {
        iops: std::num::NonZeroU32::new(operations),
        kib_per_s: std::num::NonZeroU32::new(kib),
    };
    let disk = |name, rate| Disk { rate, ..disk(name) };
    let disks = vec![disk("free", Rate::default()), disk("slow", rate(7, 2))];
    let launch = Launch { disk_rate: rate(0, 4), disks, ..launch() };
    let found = argv(Path::new("/vms/vm"), &launch, &disks_of(&launch), &[], Format::Raw, &[]);
    let json = || found.iter().filter_map(|one| serde_json::from_str(one).ok());
    let groups: Vec<serde_json::Value> =
        json().filter(|one: &serde_json::Value| one["qom-type"].is_string()).collect();
    let limits: Vec<_> = groups.iter().map(|group| (&group["id"], &group["limits"])).collect();
    let expected = [
        (serde_json::json!("rate"), serde_json::json!({"bps-total": 4096})),
        (serde_json::json!("rate1"), serde_json::json!({"iops-total": 7, "bps-total": 2048})),
    ];
    assert_eq!(limits, expected.iter().map(|(id, limits)| (id, limits)).collect::<Vec<_>>());
    let node = |name: &str| json().find(|one| one["node-name"] == name).unwrap();
    for (name, group, driver) in [("disk", "rate", "qcow2"), ("data1", "rate1", "raw")] {
        let node = node(name);
        assert_eq!((&node["driver"], &node["throttle-group"]), (&"throttle".into(), &group.into()));
        assert_eq!(node["file"]["driver"], driver);
    }
    assert_eq!(node("data0")["driver"], "raw");
}

#[test]
fn an_image_is_below_an_overlay_or_only_read() {
    let image = qhost_model::launch::DiskImage {
        source: "https://images.example/x".parse().unwrap(),
        sha256: qhost_model::digest::Sha256::of(b"x"),
    };
    let of = |name, bytes, read_only, cdrom| Disk {
        bytes,
        image: Some(image.clone()),
        read_only,
        cdrom,
        ..disk(name)
    };
    let disks = vec![
        of("over", Some(1 << 21), false, false),
        of("read", None, true, false),
        of("cd", None, true, true),
        disk("empty"),
    ];
    let launch = Launch { disks, ..launch() };
    let found = argv(Path::new("/vms/vm"), &launch, &disks_of(&launch), &[], Format::Raw, &[]);
    let node = |name: &str| {
        let nodes = found.iter().filter_map(|one| serde_json::from_str(one).ok());
        nodes.into_iter().find(|node: &serde_json::Value| node["node-name"] == name).unwrap()
    };
    let file = |name: &str| node(name)["file"]["filename"].clone();
    assert_eq!((file("image0"), file("data0")), ("/dev/fdset/7".into(), "/dev/fdset/8".into()));
    assert_eq!(
        (node("data0")["backing"].clone(), node("image0")["read-only"].clone()),
        ("image0".into(), true.into())
    );
    assert_eq!(
        (file("data1"), file("data2"), file("data3")),
        ("/dev/fdset/9".into(), "/dev/fdset/10".into(), "/dev/fdset/11".into())
    );
    for read in ["data1", "data2"] {
        assert_eq!(node(read)["read-only"], true);
    }
    assert_eq!(node("data2")["driver"], "raw");
    assert!(found.iter().any(|one| one == "ide-cd,drive=data2,serial=cd"), "{found:?}");
}

#[test]
fn an_agent_has_a_channel_and_a_display_is_there_where_they_are_to_be_reached() {
    let with = |agent, display| {
        let access = Access { agent, display, ..Access::default() };
        argv(Path::new("/vms/vm"), &Launch { access, ..launch() }, &[], &[], Format::Raw, &[])
            .join(" ")
    };
    let (none, watch) = (AccessLevel::None, AccessLevel::Watch);
    assert!(!with(none, none).contains("virtserialport") && !with(none, none).contains("VGA"));
    assert!(with(watch, none).contains("socket,id=agent,fd=7,server=on,wait=off"));
    assert!(with(AccessLevel::Interact, none).contains("chardev=agent"));
    assert!(with(none, watch).contains("-device VGA"));
}

#[test]
fn an_aarch64_guest_has_what_its_machine_has() {
    let machine = Machine {
        kind: MachineKind::Virt,
        architecture: Architecture::Aarch64,
        ..Machine::default()
    };
    let firmware = Firmware { kind: FirmwareKind::Uefi, secure_boot: SecureBoot::Off };
    let access = Access { display: AccessLevel::Watch, ..Access::default() };
    let launch = Launch { machine, firmware, access, ..launch() };
    let found = argv(Path::new("/vms/vm"), &launch, &[], &[], Format::Iso, &[]);
    let flash = "virt,usb=off,dump-guest-core=off,graphics=off,pflash0=code,pflash1=variables";
    let cd = ["virtio-scsi-pci,id=scsi", "scsi-cd,bus=scsi.0,drive=image,bootindex=0"];
    let display = "virtio-gpu-pci,max_hostmem=32M";
    for option in [flash, "max", "pvpanic-pci", cd[0], cd[1], display] {
        assert!(found.iter().any(|one| one == option), "no {option} in {found:?}");
    }
    let all = found.join(" ");
    for option in ["ide-cd", "VGA", "vmx", "smm", "-global"] {
        assert!(!all.contains(option), "{option} in {all}");
    }
    let disk = argv(Path::new("/vms/vm"), &launch, &[], &[], Format::Raw, &[]).join(" ");
    assert!(disk.contains("virtio-blk-pci,drive=disk,bootindex=0") && !disk.contains("scsi"));
}

#[test]
fn a_guest_without_a_network_device_has_no_network() {
    let launch = Launch { nics: vec![], ..launch() };
    let found = argv(Path::new("/vms/vm"), &launch, &[], &[], Format::Raw, &[]);
    assert!(!found.iter().any(|one| one == "-netdev" || one.contains("virtio-net")));
}
