//! A name server (RFC 1035) on an address of loopback, by UDP and TCP, which answers each question as a test says, and a host on
//! which it is the only name server.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use crate::{Done, Qhost, command};

/// A record that a name has.
#[derive(Debug, Clone)]
pub enum Answer {
    /// An address, given to questions for addresses of its family.
    Address(IpAddr),
    /// Another name, whose addresses follow.
    Alias(&'static str),
}

/// The server, whose threads end with the tests.
pub struct NameServer {
    address: Ipv4Addr,
    questions: Arc<Mutex<Vec<String>>>,
}

type Answers = dyn Fn(&str, usize) -> Vec<Answer> + Send + Sync;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

impl NameServer {
    /// Starts a server on port 53 of an address of loopback that no other test has; gives none where this user may not. `answers`
    /// gets a name, and how often the same question was asked already, counted for IPv4 and IPv6 apart.
    pub fn start(
        answers: impl Fn(&str, usize) -> Vec<Answer> + Send + Sync + 'static,
    ) -> Option<Self> {
        let [low, high, ..] = std::process::id().to_le_bytes();
        let bound = (0..=250).find_map(|last| {
            let address = Ipv4Addr::new(127, 53 ^ high, low, last + 1);
            Some((
                address,
                UdpSocket::bind((address, 53)).ok()?,
                TcpListener::bind((address, 53)).ok()?,
            ))
        });
        let Some((address, datagrams, connections)) = bound else {
            eprintln!("SKIPPED: names that are resolved, because port 53 cannot be had");
            return None;
        };
        let questions = Arc::new(Mutex::new(vec![]));
        let answers: Arc<Answers> = Arc::new(answers);
        let (asked, said) = (questions.clone(), answers.clone());
        thread::spawn(move || {
            let mut question = [0; 1500];
            while let Ok((length, from)) = datagrams.recv_from(&mut question) {
                let answer = answer(&question[..length], &asked, &*said);
                // A client asks once more by TCP for an answer that is cut.
                let answer = if answer.len() > 512 { cut(&question[..length]) } else { answer };
                datagrams.send_to(&answer, from).expect("a datagram");
            }
        });
        let asked = questions.clone();
        thread::spawn(move || {
            for stream in connections.incoming() {
                let mut stream = stream.expect("a connection");
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut question = vec![0; u16::from_be_bytes(length).into()];
                    stream.read_exact(&mut question).expect("a question");
                    let answer = answer(&question, &asked, &*answers);
                    let length = u16::try_from(answer.len()).expect("a message of 64 KiB");
                    // The client may have left.
                    if stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).is_err() {}
                }
            }
        });
        Some(Self { address, questions })
    }

    /// The questions so far, as types and names.
    pub fn questions(&self) -> Vec<String> {
        self.questions.lock().expect("the lock").clone()
    }

    /// Runs qhost in a mount namespace in which this server resolves every name.
    pub fn run(&self, qhost: &Qhost, args: &[&str]) -> Done {
        let file = |name: &str, text: &str| qhost.file(name, text);
        let resolvers =
            file("resolv.conf", &format!("nameserver {}\noptions timeout:5\n", self.address));
        let mut script = format!("mount --bind {resolvers} /etc/resolv.conf");
        for (at, text) in
            [("/etc/hosts", "127.0.0.1 localhost\n"), ("/etc/nsswitch.conf", "hosts: files dns\n")]
        {
            if Path::new(at).exists() {
                let name = at.trim_start_matches("/etc/");
                script += &format!(" && mount --bind {} {at}", file(name, text));
            }
        }
        script += " && exec \"$0\" \"$@\"";
        let plain = qhost.command(args);
        let mut unshared = command("unshare");
        unshared
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .arg(qhost.program())
            .args(args)
            .current_dir(qhost.folder())
            .env_clear()
            .envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
        Done::of(unshared.output().expect("unshare runs"))
    }
}

/// Reads a question: its end, its name and its type.
fn question(message: &[u8]) -> (usize, String, u16) {
    let mut at = 12;
    let mut labels = vec![];
    while message[at] != 0 {
        let length = usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..=at + length]).to_lowercase());
        at += 1 + length;
    }
    (at + 5, labels.join("."), u16::from_be_bytes([message[at + 1], message[at + 2]]))
}

/// The head of an answer: the question's id, flags, and the numbers of records.
fn head(message: &[u8], truncated: bool, answers: u16) -> Vec<u8> {
    let flags = 0x8580 | if truncated { 0x200 } else { 0_u16 };
    let mut head = message[..2].to_vec();
    for number in [flags, 1, answers, 0, 0] {
        head.extend(number.to_be_bytes());
    }
    head
}

fn cut(message: &[u8]) -> Vec<u8> {
    let (end, ..) = question(message);
    [head(message, true, 0), message[12..end].to_vec()].concat()
}

fn answer(message: &[u8], asked: &Mutex<Vec<String>>, answers: &Answers) -> Vec<u8> {
    let (end, name, kind) = question(message);
    let entry = format!("{} {name}", if kind == AAAA { "AAAA" } else { "A" });
    let before = {
        let mut asked = asked.lock().expect("the lock");
        asked.push(entry.clone());
        asked.iter().filter(|one| **one == entry).count() - 1
    };
    let (mut records, mut count) = (vec![], 0);
    // The name of the next record, which is the question's until there is an alias.
    let mut owner = vec![0xc0, 12];
    for answer in answers(&name, before) {
        let (of, kind_of, data) = match answer {
            Answer::Address(IpAddr::V4(v4)) if kind == A => {
                (owner.clone(), A, v4.octets().to_vec())
            }
            Answer::Address(IpAddr::V6(v6)) if kind == AAAA => {
                (owner.clone(), AAAA, v6.octets().to_vec())
            }
            Answer::Address(_) => continue,
            Answer::Alias(alias) => {
                let labels = alias.split('.').flat_map(|label| {
                    [vec![u8::try_from(label.len()).expect("a label")], label.as_bytes().to_vec()]
                        .concat()
                });
                let alias: Vec<u8> = labels.chain([0]).collect();
                (std::mem::replace(&mut owner, alias.clone()), CNAME, alias)
            }
        };
        records.extend(of);
        records.extend(kind_of.to_be_bytes());
        // The class is the Internet, and the record may not be kept.
        records.extend([0, 1, 0, 0, 0, 0]);
        records.extend(u16::try_from(data.len()).expect("a record").to_be_bytes());
        records.extend(data);
        count += 1;
    }
    [head(message, false, count), message[12..end].to_vec(), records].concat()
}

/// The answer of an IPv4 address.
pub fn v4(text: &str) -> Answer {
    Answer::Address(text.parse::<Ipv4Addr>().expect("an address").into())
}

/// The answer of an IPv6 address.
pub fn v6(text: &str) -> Answer {
    Answer::Address(text.parse::<Ipv6Addr>().expect("an address").into())
}
