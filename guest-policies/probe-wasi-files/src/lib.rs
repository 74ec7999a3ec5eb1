//! Hostile: a policy that also imports files from WASI, and would list the host's folders if it were given them.

mod files {
    wit_bindgen::generate!({
        path: ["../../wit", "wit"],
        world: "qhost:probe/files",
        generate_all,
    });
}

use files::exports::qhost::policy::decide::{
    About, Actor, Guest, Launch, Operation, Request, Running, Violation,
};

struct Probe;

impl Guest for Probe {
    fn describe() -> About {
        About {
            name: "probe-wasi-files".into(),
            version: "0.1.0".into(),
            description: files::wasi::filesystem::preopens::get_directories().join(", "),
            settings_schema: None,
            tables: vec![],
            extensions: vec![],
        }
    }

    fn check_settings(_: String) -> Result<(), String> {
        Ok(())
    }

    fn choose(_: Request, so_far: Launch) -> Result<Launch, Vec<Violation>> {
        Ok(so_far)
    }

    fn validate(_: Request, _: Launch) -> Vec<Violation> {
        vec![]
    }

    fn permit(_: Request, _: Running, _: Operation, _: Actor) -> Vec<Violation> {
        vec![]
    }
}

files::export!(Probe with_types_in files);
