//! Files that other users can change are not trusted, and a file that cannot be looked at is not taken for absent.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
};

use serde_json::json;

use qhost_tests::{Done, ImageServer, Qhost, boot_sector, configured, policy};

use crate::qhost;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn plan(qhost: &Qhost) -> Done {
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    qhost.run(&["plan", &job])
}

/// A folder that all users may write to, with a file in it.
fn open(qhost: &Qhost, name: &str, bytes: &[u8]) -> PathBuf {
    let folder = qhost.folder().join("open");
    fs::create_dir_all(&folder).unwrap();
    mode(&folder, 0o777);
    let file = folder.join(name);
    fs::write(&file, bytes).unwrap();
    file
}

#[track_caller]
fn says_how_to_mend(done: Done, path: &Path) {
    done.says("cannot be relied upon").says(&format!("use: chmod go-w {}", path.display()));
}

#[test]
fn a_configuration_that_others_can_write_is_refused() {
    let qhost = qhost();
    let file = qhost.folder().join("qhost.toml");
    plan(&qhost).exits(0);
    mode(&file, 0o666);
    says_how_to_mend(plan(&qhost).exits(2), &file);
    let checked = qhost.run(&["config", "check"]).exits(2);
    checked.says("1 problem").says("use: chmod go-w");
    qhost.run(&["doctor"]).exits(16).says("trust").says("use: chmod go-w");
    mode(&file, 0o644);
    mode(qhost.folder(), 0o777);
    says_how_to_mend(plan(&qhost).exits(2), qhost.folder());
    mode(qhost.folder(), 0o700);
    // The lock file says which policies there are.
    let lock = qhost.folder().join("qhost.lock");
    fs::write(&lock, "").unwrap();
    plan(&qhost).exits(0);
    mode(&lock, 0o666);
    says_how_to_mend(plan(&qhost).exits(2), &lock);
    fs::remove_file(&lock).unwrap();
    symlink("gone", &lock).unwrap();
    plan(&qhost).exits(2).says("is a link to gone, and nothing is there");
}

/// A folder's owner can put another file in the place of one in it.
#[test]
fn what_lies_below_anothers_folder_is_refused() {
    let qhost = qhost();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = qhost.folder().join("theirs");
    fs::create_dir(&folder).unwrap();
    let own = folder.join("qhost.toml");
    fs::write(&own, "").unwrap();
    chown(&folder, Some(65534), None).unwrap();
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let done = qhost.run(&["plan", "--config", own.to_str().unwrap(), &job]).exits(2);
    done.says(&format!("{} belongs to user 65534, expected user 0 or root", folder.display()));
    let state = folder.join("state");
    fs::create_dir(&state).unwrap();
    let done = qhost.run(&["ps", "--state-dir", state.to_str().unwrap()]).exits(2);
    done.says("belongs to user 65534");
}

#[test]
fn a_policy_or_its_settings_that_others_can_write_are_refused() {
    let qhost = qhost();
    let module = open(&qhost, "limits.wasm", &fs::read(policy("limits")).unwrap());
    let folder = module.parent().unwrap();
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let named = ["plan", "--policy", module.to_str().unwrap(), &job];
    says_how_to_mend(qhost.run(&named).exits(12), folder);
    let config = configured("limits", "limits", json!({}), "") + "[host]\nchain = [\"limits\"]\n";
    let built = policy("limits").display().to_string();
    qhost.config(&config.replace(&built, module.to_str().unwrap()));
    says_how_to_mend(plan(&qhost).exits(12), folder);
    qhost.run(&["config", "check"]).exits(2).says("policies.limits").says("chmod go-w");
    qhost.run(&["doctor"]).exits(16).says("policies.limits.module").says("chmod go-w");
    let settings = open(&qhost, "limits.json", b"{}");
    let by_file = format!("settings_file = {:?}", settings.to_str().unwrap());
    qhost.config(&config.replace("settings = {  }", &by_file));
    says_how_to_mend(plan(&qhost).exits(2), folder);
    let given = format!("limits={}", settings.display());
    let named = ["plan", "--policy", &built, "--policy-settings", &given, &job];
    qhost.config("");
    says_how_to_mend(qhost.run(&named).exits(2), folder);
}

#[test]
fn keys_and_credentials_that_others_can_write_are_refused() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("x", boot_sector::Then::PowerOff));
    let file = open(&qhost, "hosts.toml", b"");
    mode(&file, 0o600);
    for key in ["credentials", "ca"] {
        qhost.config(&format!("[image]\n{key} = {:?}\n", file.to_str().unwrap()));
        let pull = ["image", "pull", &image.0, "--checksum", &image.1];
        qhost.run(&pull).exits(2).says("chmod go-w");
        qhost.run(&["config", "check"]).exits(2).says(&format!("image.{key}"));
    }
    qhost.config("");
    let key = file.with_file_name("release");
    qhost.run(&["policy", "keygen", key.to_str().unwrap(), "--no-password"]).exits(0);
    let module = qhost.folder().join("limits.wasm");
    fs::copy(policy("limits"), &module).unwrap();
    let [secret, public] =
        ["key", "pub"].map(|kind| key.with_extension(kind).display().to_string());
    let module = module.to_str().unwrap();
    let folder = file.parent().unwrap();
    says_how_to_mend(qhost.run(&["policy", "sign", module, "--key", &secret]).exits(2), folder);
    says_how_to_mend(qhost.run(&["policy", "verify", module, "--key", &public]).exits(2), folder);
}

/// Only an absent configuration means that no policy is asked; one that cannot be looked at does not.
#[test]
fn a_default_configuration_that_cannot_be_looked_at_is_an_error() {
    let qhost = qhost();
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let home = qhost.folder().join("home");
    fs::create_dir(&home).unwrap();
    let plan = |exit: i32, says: &str| {
        let mut plan = qhost.command(&["plan", &job]);
        plan.env_remove("QHOST_CONFIG").env("XDG_CONFIG_HOME", &home);
        let output = plan.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{said}");
        assert!(said.contains(says), "{says:?} is not in {said}");
    };
    plan(0, "");
    let folder = home.join("qhost");
    symlink("gone", &folder).unwrap();
    plan(2, "home/qhost is a link to gone, and nothing is there");
    fs::remove_file(&folder).unwrap();
    // A path that is no folder cannot be looked into, just as other users than root cannot look into a folder without its search bit.
    fs::write(&folder, "").unwrap();
    plan(2, "cannot look for");
    fs::remove_file(&folder).unwrap();
    symlink("qhost", &folder).unwrap();
    plan(2, "too many links");
    fs::remove_file(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    plan(0, "");
    symlink("gone.toml", folder.join("qhost.toml")).unwrap();
    plan(2, "is a link to gone.toml, and nothing is there");
    fs::remove_file(folder.join("qhost.toml")).unwrap();
    // Other users may have removed the configuration.
    mode(&folder, 0o777);
    plan(2, "use: chmod go-w");
}

/// An empty variable would take the configuration from the folder that a command is run in.
#[test]
fn an_empty_folder_for_configurations_is_passed_over() {
    let qhost = qhost();
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    fs::create_dir(qhost.folder().join("qhost")).unwrap();
    fs::write(qhost.folder().join("qhost/qhost.toml"), "nonsense").unwrap();
    for value in ["", "."] {
        let mut plan = qhost.command(&["plan", &job]);
        plan.env_remove("QHOST_CONFIG").env("XDG_CONFIG_HOME", value).env("HOME", qhost.state());
        let output = plan.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
