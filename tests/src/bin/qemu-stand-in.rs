//! A program in QEMU's place, which does what a guest could do that had broken out into QEMU: the deeds that are on its
//! disk, a line each. It prints their results on the console. Asked about QEMU without a VM, it runs the real QEMU.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _},
    mem::ManuallyDrop,
    net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _},
        linux::net::SocketAddrExt as _,
        unix::{
            fs::PermissionsExt as _,
            net::{SocketAddr, UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    mount::{MountFlags, mount},
    net::{
        AddressFamily, Protocol, SendFlags, SocketType, getsockname, netdevice, sendto, socket,
        sockopt,
    },
    process::{Pid, Signal, kill_process},
    thread::{CapabilitySet, UnshareFlags, capabilities},
};

use qhost_tests::command;
use qhost_vm::descriptors;

/// Whether the supervisor has had an answer.
static ANSWERED: AtomicBool = AtomicBool::new(false);
/// The descriptor of the console's connection.
static CONSOLE: AtomicI32 = AtomicI32::new(-1);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "-add-fd") {
        let beside = std::env::current_exe().unwrap().with_file_name("real");
        let real = fs::read_to_string(beside).unwrap();
        panic!("{}", command(real).args(args).exec());
    }
    #[expect(unsafe_code, reason = "descriptors that were handed over by their numbers")]
    // SAFETY: the process that starts QEMU hands these descriptors over, and nothing else here has them.
    let (qmp, console, image, overlay) = unsafe {
        (
            UnixListener::from_raw_fd(descriptors::QMP),
            UnixListener::from_raw_fd(descriptors::CONSOLE),
            File::from_raw_fd(descriptors::IMAGE),
            File::from_raw_fd(descriptors::OVERLAY),
        )
    };
    thread::spawn(move || {
        loop {
            serve(qmp.accept().unwrap().0);
        }
    });
    let (mut console, _) = console.accept().unwrap();
    CONSOLE.store(console.as_raw_fd(), Ordering::Relaxed);
    let mut deeds = String::new();
    let mut reader = BufReader::new(image.try_clone().unwrap());
    reader.seek(SeekFrom::Start(512)).unwrap();
    let mut bytes = vec![];
    reader.read_until(0, &mut bytes).unwrap();
    deeds.push_str(&String::from_utf8_lossy(&bytes));
    for deed in deeds.trim_end_matches('\0').lines() {
        // On a busy machine, this deed could take all threads before there is one that serves the supervisor.
        if deed.starts_with("threads ") {
            wait_for_the_supervisor();
        }
        // This deed has the console for itself until its end.
        if deed == "flood-console" {
            let text = b"\x1b]0;owned\x07host      allowed by every one\r\n".repeat(1000);
            while console.write_all(&text).is_ok() {}
        }
        let said = match done(deed, &image, &overlay) {
            Ok(said) => said,
            Err(error) => error.to_string(),
        };
        writeln!(console, "{deed}: {said}").unwrap();
    }
    writeln!(console, "DONE").unwrap();
    thread::sleep(Duration::from_secs(3600));
}

fn wait_for_the_supervisor() {
    for _ in 0..100 {
        if ANSWERED.load(Ordering::Relaxed) {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// How many bytes of a flood were read.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Floods for five seconds, and gives how many KiB a second were read, beyond the burst that may come at once.
fn flooded(kind: u8) -> String {
    FLOODS.store(kind, Ordering::Relaxed);
    thread::sleep(Duration::from_secs(5));
    let taken = TAKEN.load(Ordering::Relaxed).saturating_sub(qhost_vm::limits::QMP_RATE.burst);
    format!("{} KiB a second", taken / 5 / 1024)
}

/// Answers as much of QMP as a supervisor needs.
fn serve(stream: UnixStream) {
    (&stream).write_all(b"{\"QMP\": {}}\n").unwrap();
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let stream = Arc::new(Mutex::new(stream));
    let unasked = stream.clone();
    thread::spawn(move || flood(&unasked));
    for line in lines.map_while(Result::ok) {
        let request: serde_json::Value = serde_json::from_str(&line).unwrap();
        let answer = serde_json::json!({"return": {"status": "running"}, "id": request["id"]});
        if !send(&stream, format!("{answer}\n").as_bytes()) {
            return;
        }
        ANSWERED.store(true, Ordering::Relaxed);
        if request["execute"] == "quit" {
            std::process::exit(0);
        }
    }
}

/// The floods that are sent by QMP without being asked for, a bit each.
static FLOODS: AtomicU8 = AtomicU8::new(0);
const EVENTS: u8 = 1;
const LONG_LINES: u8 = 2;

/// Sends the chosen floods for as long as the connection is open.
fn flood(stream: &Mutex<UnixStream>) {
    let events = b"{\"event\": \"RESUME\", \"data\": {}}\n".repeat(100);
    let line = format!("{{\"event\": \"{}\"}}\n", "x".repeat(1_000_000));
    loop {
        let floods = FLOODS.load(Ordering::Relaxed);
        let sent = (floods & EVENTS == 0 || send(stream, &events))
            && (floods & LONG_LINES == 0 || send(stream, line.as_bytes()));
        if !sent {
            return;
        }
        // The pause gives answers a turn.
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sends whole lines, so that they are not mixed with others.
fn send(stream: &Mutex<UnixStream>, lines: &[u8]) -> bool {
    let is_sent = stream.lock().unwrap().write_all(lines).is_ok();
    TAKEN.fetch_add(lines.len() as u64, Ordering::Relaxed);
    is_sent
}

/// The file that QEMU was handed for a block node: a disk, the seed, the code of UEFI. It stays open.
fn node(name: &str) -> io::Result<ManuallyDrop<File>> {
    let named = format!("\"node-name\":\"{name}\"");
    let node = std::env::args().find(|arg| arg.contains(&named));
    let node: serde_json::Value = serde_json::from_str(&node.ok_or(io::ErrorKind::NotFound)?)?;
    let file = node["file"]["filename"].as_str().and_then(|name| name.strip_prefix("/dev/fdset/"));
    let descriptor = file.and_then(|number| number.parse().ok()).ok_or(io::ErrorKind::NotFound)?;
    #[expect(unsafe_code, reason = "descriptors that were handed over by their numbers")]
    // SAFETY: the process that starts QEMU hands it over, and nothing here closes it.
    Ok(ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) }))
}

/// Ignition's config, which QEMU opens by its path.
fn config() -> io::Result<String> {
    let word = std::env::args().find(|arg| arg.starts_with("name=opt/com.coreos/config,"));
    let word = word.ok_or(io::ErrorKind::NotFound)?;
    let (_, path) = word.split_once("file=").ok_or(io::ErrorKind::NotFound)?;
    Ok(path.replace(",,", ","))
}

/// Makes a socket for datagrams, which is not bound to an address.
fn datagrams() -> io::Result<UdpSocket> {
    Ok(socket(AddressFamily::INET, SocketType::DGRAM, None)?.into())
}

fn send_with_options(options: &[u8], to: &str) -> io::Result<()> {
    let socket = datagrams()?;
    let length = u32::try_from(options.len()).unwrap();
    #[expect(unsafe_code, reason = "an option that no library sets")]
    // SAFETY: the kernel reads as many bytes as `options` has.
    let set = unsafe {
        let at = options.as_ptr().cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_OPTIONS, at, length)
    };
    match set {
        0 => socket.send_to(b"x", to).map(drop),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Says whether a socket listens, and at which address.
fn listens(socket: &impl AsFd) -> io::Result<String> {
    Ok(if sockopt::socket_acceptconn(socket)? {
        format!("listens at {:?}", SocketAddrV4::try_from(getsockname(socket)?))
    } else {
        "listens at nothing".into()
    })
}

/// Makes a request about an open file that QEMU itself never makes, by ioctl(2).
fn control(file: &File, request: libc::Ioctl, with: &mut [u64]) -> io::Result<()> {
    #[expect(unsafe_code, reason = "requests that no library makes")]
    // SAFETY: none of the requests made here writes beyond `with`.
    match unsafe { libc::ioctl(file.as_raw_fd(), request, with.as_mut_ptr()) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives a command about an open file, by fcntl(2).
fn command_file(file: &File, command: i32, with: i64) -> io::Result<()> {
    #[expect(unsafe_code, reason = "commands that no library gives")]
    // SAFETY: the only pointer among the commands given here is to a lock that outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, with) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Locks all of a file, for readers or for one writer.
fn lock(file: &File, kind: i32) -> io::Result<()> {
    let lock = libc::flock { l_type: kind as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    command_file(file, libc::F_OFD_SETLK, std::ptr::from_ref(&lock).expose_provenance() as i64)
}

fn done(deed: &str, image: &File, mut overlay: &File) -> io::Result<String> {
    let (what, with) = deed.split_once(' ').unwrap_or((deed, ""));
    let number = || with.parse::<usize>().unwrap();
    match what {
        "read" => drop(fs::read(with)?),
        "list" => {
            let names = fs::read_dir(with)?.map(|entry| entry.unwrap().file_name());
            return Ok(format!("{:?}", names.collect::<Vec<_>>()));
        }
        "unix" => drop(UnixStream::connect(with)?),
        "abstract" => drop(UnixStream::connect_addr(&SocketAddr::from_abstract_name(with)?)?),
        "tcp" => drop(TcpStream::connect(with)?),
        "udp" => drop(datagrams()?.send_to(b"x", with)?),
        "answer" => {
            let (at, other) = with.split_once(' ').unwrap_or((with, ""));
            let socket = UdpSocket::bind(at)?;
            let (_, asker) = socket.recv_from(&mut [0; 16])?;
            socket.send_to(b"answered", asker)?;
            if !other.is_empty() {
                socket.send_to(b"unasked", other)?;
            }
        }
        "udp-connect" => datagrams()?.connect(with)?,
        // A socket that has sent has a port of its own, at which it receives.
        "hear" => {
            let socket = datagrams()?;
            socket.set_read_timeout(Some(Duration::from_secs(20)))?;
            socket.send_to(b"x", with)?;
            let mut heard = [0; 64];
            let (length, from) = socket.recv_from(&mut heard)?;
            return Ok(format!("{:?} from {from}", String::from_utf8_lossy(&heard[..length])));
        }
        "six" => drop(socket(AddressFamily::INET6, SocketType::STREAM, None)?),
        "broadcast" => {
            let socket = datagrams()?;
            socket.set_broadcast(true)?;
            socket.send_to(b"x", with)?;
        }
        "source-routed" => {
            let [a, b, c, d] = with.parse::<SocketAddrV4>().unwrap().ip().octets();
            // The option routes loosely by one hop (RFC 791, 3.1); which hop it is does not matter here.
            send_with_options(&[131, 7, 4, a, b, c, d, 0], with)?;
        }
        // The four options are all No Operation.
        "ip-options" => send_with_options(&[1, 1, 1, 1], with)?,
        "packet" => drop(socket(AddressFamily::PACKET, SocketType::RAW, None)?),
        "netlink" => drop(socket(AddressFamily::NETLINK, SocketType::RAW, None)?),
        "fastopen" => {
            let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            let to: SocketAddrV4 = with.parse().unwrap();
            let connecting = SendFlags::from_bits_retain(0x2000_0000);
            sendto(&socket, b"x", connecting, &to)?;
        }
        "multipath" => {
            let mptcp = Protocol::from_raw(std::num::NonZeroU32::new(262).unwrap());
            drop(socket(AddressFamily::INET, SocketType::STREAM, Some(mptcp))?);
        }
        "datagram-pair" => drop(std::os::unix::net::UnixDatagram::pair()?),
        "chmod" => overlay.set_permissions(fs::Permissions::from_mode(0o777))?,
        "listen" => return listens(&TcpListener::bind(with)?),
        // All of these sockets stay open until the last is made.
        "listen-unbound" => {
            let tries = (0..number()).map(|_| {
                let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
                rustix::net::listen(&socket, 1)?;
                Ok((listens(&socket)?, socket))
            });
            let tries: Vec<_> = tries.collect::<io::Result<_>>()?;
            let got: BTreeSet<_> = tries.into_iter().map(|(got, _)| got).collect();
            return Ok(got.into_iter().collect::<Vec<_>>().join(", "));
        }
        "accept" => {
            let (mut stream, from) = TcpListener::bind(with)?.accept()?;
            stream.write_all(b"accepted")?;
            return Ok(format!("from {}", from.ip()));
        }
        "bind-udp" => drop(UdpSocket::bind(with)?),
        "read-lock-image" => lock(image, libc::F_RDLCK)?,
        "read-lock-overlay" => lock(overlay, libc::F_RDLCK)?,
        "flock-image" => image.lock_shared()?,
        "lease-image" => command_file(image, libc::F_SETLEASE, libc::F_RDLCK.into())?,
        "times-of-image" => image.set_modified(std::time::SystemTime::now())?,
        "mode-of-image" => image.set_permissions(fs::Permissions::from_mode(0o777))?,
        // The request is FS_IOC_SETFLAGS, with FS_NOATIME_FL, which a file's owner may set.
        "flags-of-image" => control(image, 0x4008_6602, &mut [0x80])?,
        // The request is FS_IOC_ENABLE_VERITY.
        "verity-of-image" => {
            control(image, 0x4080_6685, &mut [1, 4096, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])?
        }
        "write-image" => drop((&*image).write_all(b"x")?),
        "truncate-image" => image.set_len(0)?,
        "read-lock-node" => lock(&*node(with)?, libc::F_RDLCK)?,
        "mode-of-node" => node(with)?.set_permissions(fs::Permissions::from_mode(0o777))?,
        "write-node" => (&*node(with)?).write_all(b"x")?,
        "empty-node" => node(with)?.set_len(0)?,
        "enlarge-node" => node(with)?.set_len(1 << 40)?,
        "read-config" => drop(fs::read(config()?)?),
        "write-config" => drop(File::options().write(true).open(config()?)?),
        "mode-of-config" => fs::set_permissions(config()?, fs::Permissions::from_mode(0o777))?,
        "remove-config" => fs::remove_file(config()?)?,
        "sync" => rustix::fs::syncfs(image)?,
        "measure-events" => return Ok(flooded(EVENTS)),
        "measure-long-lines" => return Ok(flooded(LONG_LINES)),
        // The descriptor is the console's own connection, to which any code in QEMU can write.
        "measure-console" => {
            #[expect(unsafe_code, reason = "the console's connection, which the first thread has")]
            // SAFETY: the descriptor is open for as long as this process runs, and is not closed here.
            let console =
                unsafe { ManuallyDrop::new(File::from_raw_fd(CONSOLE.load(Ordering::Relaxed))) };
            let (began, block, mut taken) = (std::time::Instant::now(), [b'x'; 65536], 0_u64);
            while began.elapsed() < Duration::from_secs(5) {
                (&*console).write_all(&block)?;
                taken += block.len() as u64;
            }
            let taken = taken.saturating_sub(qhost_vm::limits::CONSOLE_RATE.burst);
            return Ok(format!("{} KiB a second", taken / began.elapsed().as_secs() / 1024));
        }
        "interfaces" => {
            let probe = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            let second = netdevice::index_to_name(&probe, 2);
            let first = netdevice::index_to_name(&probe, 1)?;
            let up = TcpListener::bind("127.0.0.1:0")
                .and_then(|listener| TcpStream::connect(listener.local_addr()?));
            let alone = second.is_err() && up.is_err();
            return Ok(if alone {
                format!("only {first}, and that is down")
            } else {
                "more".into()
            });
        }
        "signal" => kill_process(Pid::from_raw(with.parse().unwrap()).unwrap(), Signal::CONT)?,
        "exec" => drop(command(with).arg("-c").arg("true").status()?),
        "memfd" => drop(memfd_create("program", MemfdFlags::empty())?),
        // QEMU makes such a memory file for a display. execveat(2) gets it with the other arguments like those of QEMU's
        // own execve(2).
        "memfd-exec" => {
            let file = File::from(memfd_create("program", MemfdFlags::CLOEXEC)?);
            (&file).write_all(
                &fs::read("/proc/self/exe").unwrap_or_else(|_| b"#!/bin/sh\n".to_vec()),
            )?;
            let arguments = [c"program".as_ptr(), std::ptr::null()];
            #[expect(unsafe_code, reason = "a call that no library has")]
            // SAFETY: the strings, and the list that a null ends, live until the call returns.
            let _answer = unsafe {
                libc::syscall(
                    libc::SYS_execveat,
                    file.as_raw_fd(),
                    c"".as_ptr(),
                    arguments.as_ptr(),
                    arguments[1..].as_ptr(),
                    libc::AT_EMPTY_PATH,
                )
            };
            return Err(io::Error::last_os_error());
        }
        "write-and-exec" => {
            let mut file = File::create("/program")?;
            file.write_all(b"#!/bin/sh\n")?;
            file.set_permissions(fs::Permissions::from_mode(0o755))?;
            drop(file);
            command("/program").status()?;
        }
        "capabilities" => {
            let sets = capabilities(None)?;
            let none = CapabilitySet::empty();
            let has_none = (sets.effective, sets.permitted, sets.inheritable) == (none, none, none);
            let no_new = rustix::thread::no_new_privs()?;
            let root = rustix::process::getuid().is_root() || rustix::process::getgid().is_root();
            let fine = has_none && no_new && !root;
            return Ok(if fine {
                "none, no new privileges, not root".into()
            } else {
                format!("{sets:?}")
            });
        }
        "setuid" => rustix::thread::set_thread_uid(rustix::fs::Uid::ROOT)?,
        "unshare" => {
            #[expect(unsafe_code, reason = "rustix calls unshare(2) unsafe")]
            // SAFETY: nothing in this process depends on the namespace of this thread.
            unsafe {
                rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER)?;
            }
        }
        "mount" => mount("none", "/", "tmpfs", MountFlags::empty(), c"")?,
        "fail" => {
            io::stderr().write_all(with.replace("\\n", "\n").as_bytes())?;
            std::process::exit(1);
        }
        "chroot" => rustix::process::chroot("/")?,
        "x32" => {
            #[expect(unsafe_code, reason = "a call that no library has")]
            // SAFETY: getppid(2) takes nothing and changes nothing.
            let answer = unsafe { libc::syscall(0x4000_0000 | libc::SYS_getppid) };
            if answer < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        "threads" => {
            for made in 0..number() {
                let sleeps = || thread::sleep(Duration::from_secs(600));
                if let Err(error) = thread::Builder::new().spawn(sleeps) {
                    return Ok(format!("after {made} {error}"));
                }
            }
        }
        "files" => {
            let mut open = vec![];
            for _ in 0..number() {
                open.push(File::open("/dev/null")?);
            }
        }
        "fill" => {
            let block = vec![1; 1 << 20];
            for _ in 0..64 {
                overlay.write_all(&block)?;
            }
        }
        "memory" => {
            let mut taken = vec![];
            for _ in 0..number() {
                taken.push(vec![1_u8; 1 << 20]);
            }
            return Ok(format!("took {} MiB", taken.len()));
        }
        "sleep-ms" => thread::sleep(Duration::from_millis(with.parse().unwrap())),
        "flood-events" => drop(FLOODS.fetch_or(EVENTS, Ordering::Relaxed)),
        "long-lines" => drop(FLOODS.fetch_or(LONG_LINES, Ordering::Relaxed)),
        "spin" => {
            for _ in 0..number() {
                thread::spawn(|| {
                    loop {
                        std::hint::spin_loop();
                    }
                });
            }
        }
        _ => return Err(io::Error::other("an unknown deed")),
    }
    Ok("done".into())
}
