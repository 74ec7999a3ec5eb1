//! Hostile: uses all of WASI that it can get, and tells what it got in warnings. Its settings are a JSON object, in
//! which the key `wait` makes it wait for a minute; it only searches the text for that word.

mod world {
    wit_bindgen::generate!({
        path: ["../../wit", "wit"],
        world: "qhost:probe/wasi",
        generate_all,
    });
}

use world::{
    exports::qhost::policy::decide::{
        About, Actor, Guest, Launch, Operation, Request, Running, Violation,
    },
    wasi::{
        cli::environment,
        clocks::{monotonic_clock, wall_clock},
        filesystem::preopens,
        random::random,
        sockets::{network::IpAddressFamily, tcp_create_socket},
    },
};

struct Probe;

impl Guest for Probe {
    fn describe() -> About {
        About {
            name: "probe-wasi".into(),
            version: "0.1.0".into(),
            description: "Hostile: takes what it can get of WASI.".into(),
            settings_schema: None,
            tables: vec![],
            extensions: vec![],
        }
    }

    fn check_settings(_: String) -> Result<(), String> {
        Ok(())
    }

    fn choose(request: Request, mut launch: Launch) -> Result<Launch, Vec<Violation>> {
        if request.settings.contains("wait") {
            monotonic_clock::subscribe_duration(60_000_000_000).block();
        }
        let socket = match tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4) {
            Ok(_) => "opened".into(),
            Err(error) => error.name().to_owned(),
        };
        let now = wall_clock::now();
        launch.warnings = vec![
            format!("environment {}", environment::get_environment().len()),
            format!("arguments {}", environment::get_arguments().len()),
            format!("folders {}", preopens::get_directories().len()),
            format!("time {}.{:09}", now.seconds, now.nanoseconds),
            format!("monotonic {}", monotonic_clock::now()),
            format!("socket {socket}"),
            format!("random {:02x?}", random::get_random_bytes(8)),
        ];
        Ok(launch)
    }

    fn validate(_: Request, _: Launch) -> Vec<Violation> {
        vec![]
    }

    fn permit(_: Request, _: Running, _: Operation, _: Actor) -> Vec<Violation> {
        vec![]
    }
}

world::export!(Probe with_types_in world);
