//! The trust in policies: signatures, the lock file, registries.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};

use qhost_tests::{Done, Qhost, policy, registry::Registry, succeed};

use crate::qhost;

/// A copy of a built policy in the scratch folder.
fn copy(qhost: &Qhost, module: &str, name: &str) -> String {
    qhost.file(name, fs::read(policy(module)).expect("a policy"))
}

/// Makes a key without a password; gives its public line.
fn key(qhost: &Qhost, name: &str) -> String {
    let made = qhost.run(&["policy", "keygen", name, "--no-password", "--json"]).exits(0).json();
    made["key"].as_str().expect("a key").into()
}

fn sign(qhost: &Qhost, file: &str, key: &str) {
    qhost.run(&["policy", "sign", file, "--key", &format!("{key}.key")]).exits(0);
}

fn sha256(file: &str) -> String {
    qhost_model::digest::Sha256::of(&fs::read(file).expect("a file")).to_string()
}

/// A configuration of one policy that must be signed.
fn configure(qhost: &Qhost, file: &str, keys: &[&String], threshold: &str) {
    let digest = sha256(file);
    qhost.config(&format!(
        "[policies.limits]\nmodule = {file:?}\nsha256 = \"{digest}\"\nsettings = {{ memory_mib = 64 }}\n\
         [policies.limits.signatures]\nkeys = {keys:?}\n{threshold}\n[host]\nchain = [\"limits\"]\n"
    ));
}

fn plan(qhost: &Qhost) -> Done {
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    qhost.run(&["plan", &job])
}

#[test]
fn minisign_and_qhost_take_each_others_keys_and_signatures() {
    let qhost = qhost();
    let file = copy(&qhost, "limits", "limits.wasm");
    let path = |name: &str| qhost.folder().join(name).to_str().expect("UTF-8").to_owned();
    key(&qhost, "release");
    sign(&qhost, &file, "release");
    let said = succeed("minisign", &["-V", "-p", &path("release.pub"), "-m", &file]);
    assert!(said.contains(&format!("file:limits.wasm sha256:{}", sha256(&file))), "{said}");

    let signature = path("limits.wasm.minisig");
    fs::remove_file(&signature).unwrap();
    // minisign signs with the key that qhost made.
    succeed("minisign", &["-S", "-W", "-s", &path("release.key"), "-m", &file]);
    qhost.run(&["policy", "verify", &file, "--key", "release.pub"]).exits(0).says("1 of 1 needed");
    // minisign signs with a key of its own, too.
    succeed("minisign", &["-G", "-W", "-p", &path("own.pub"), "-s", &path("own.key")]);
    qhost.run(&["policy", "verify", &file, "--key", "own.pub"]).exits(1).says("0 of 1 needed");
    sign(&qhost, &file, "own");
    let both = ["policy", "verify", &file, "--key", "own.pub", "--key", "release.pub", "--json"];
    let verified = qhost.run(&both).exits(0).json();
    assert_eq!((&verified["holds"], &verified["threshold"]), (&json!(true), &json!(2)));
    // The signatures are for this file and no other.
    fs::write(&file, [fs::read(&file).unwrap(), vec![0]].concat()).unwrap();
    let verified = qhost.run(&both).exits(1).json();
    assert_eq!(verified["signed_by"], json!([]));
    assert_eq!(verified["broken"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_key_with_a_password_needs_it() {
    let qhost = qhost().env("QHOST_KEY_PASSWORD", "correct");
    let file = copy(&qhost, "limits", "limits.wasm");
    qhost.run(&["policy", "keygen", "release"]).exits(0);
    qhost.run(&["policy", "keygen", "release"]).exits(2).says("cannot write release.pub");
    qhost.file("half.key", "another's");
    qhost.run(&["policy", "keygen", "half"]).exits(2).says("cannot write half.key");
    assert!(!qhost.folder().join("half.pub").exists(), "half a pair was left");
    sign(&qhost, &file, "release");
    qhost.run(&["policy", "verify", &file, "--key", "release.pub"]).exits(0);
    let sign = ["policy", "sign", &file, "--key", "release.key"];
    let with = |password: Option<&str>| {
        let mut command = qhost.command(&sign);
        match password {
            Some(password) => command.env("QHOST_KEY_PASSWORD", password),
            None => command.env_remove("QHOST_KEY_PASSWORD"),
        };
        let output = command.output().expect("qhost runs");
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(with(Some("wrong")).contains("Wrong password"));
    // The session has no terminal, which these tests may have.
    let alone = with(None);
    assert!(alone.contains("QHOST_KEY_PASSWORD"), "{alone}");
    qhost.run(&["policy", "sign", &file, "--key", &file]).exits(2).says("cannot read");
    let no_key = qhost.file("text", "one line\nand no key\n");
    qhost.run(&["policy", "sign", &file, "--key", &no_key]).exits(2).says("the key ");
    qhost.run(&["policy", "verify", &file, "--key", &no_key]).exits(2).says("no minisign public");
}

/// A threshold counts the keys that have signed, checked anew at every load.
#[test]
fn a_policy_must_be_signed_by_as_many_keys_as_configured() {
    let qhost = qhost();
    let file = copy(&qhost, "limits", "limits.wasm");
    let keys = ["one", "two", "three"].map(|name| key(&qhost, name));
    let all: Vec<_> = keys.iter().collect();
    configure(&qhost, &file, &all, "threshold = 2");
    plan(&qhost).exits(12).says("is signed by 0 of the 2 that must sign it");
    sign(&qhost, &file, "one");
    sign(&qhost, &file, "one");
    plan(&qhost).exits(12).says("is signed by 1 of the 2 that must sign it");
    // A second file with the same key's signature still counts as one key.
    let first = qhost.folder().join("limits.wasm.minisig");
    fs::copy(&first, qhost.folder().join("limits.wasm.0123456789ABCDEF.minisig")).unwrap();
    plan(&qhost).exits(12).says("is signed by 1 of the 2 that must sign it");
    // A file that only looks like a signature is passed over, and not waited for.
    succeed(
        "mkfifo",
        &[qhost.folder().join("limits.wasm.00000000000000AA.minisig").to_str().unwrap()],
    );
    fs::create_dir(qhost.folder().join("limits.wasm.00000000000000BB.minisig")).unwrap();
    sign(&qhost, &file, "three");
    plan(&qhost).exits(0).says("allowed by limits");
    // The signatures are known by now, and are still looked for.
    fs::remove_file(&first).unwrap();
    fs::remove_file(qhost.folder().join("limits.wasm.0123456789ABCDEF.minisig")).unwrap();
    plan(&qhost).exits(12).says("is signed by 1 of the 2 that must sign it");
    sign(&qhost, &file, "one");
    plan(&qhost).exits(0);
    // All keys must have signed unless a threshold is given.
    configure(&qhost, &file, &all, "");
    plan(&qhost).exits(12).says("is signed by 2 of the 3 that must sign it");
    // A changed signature does not hold any longer, and is named.
    let text = fs::read_to_string(&first).unwrap();
    fs::write(&first, text.replace("sha256:", "sha512:")).unwrap();
    plan(&qhost).exits(12).says("does not hold");
    configure(&qhost, &file, &[&keys[0], &keys[0]], "threshold = 1");
    plan(&qhost).exits(2).says("policies.limits.signatures: key ").says("is listed twice");
    configure(&qhost, &file, &all, "threshold = 4");
    plan(&qhost).exits(2).says("a threshold of 4 with 3 keys");
    configure(&qhost, &file, &[&"RWnothing".to_owned()], "");
    plan(&qhost).exits(2).says("no minisign public key");
}

#[test]
fn a_lock_file_ties_names_to_digests() {
    let qhost = qhost();
    let file = copy(&qhost, "limits", "limits.wasm");
    qhost.config(
        "[policies.limits]\nmodule = \"limits.wasm\"\nsettings = { memory_mib = 64 }\n[host]\nchain = [\"limits\"]\n",
    );
    plan(&qhost)
        .exits(2)
        .says("policies.limits.sha256: expected a digest")
        .says("qhost policy lock");
    qhost.run(&["policy", "lock", "--check"]).exits(1).says("unlocked");
    qhost.run(&["policy", "lock"]).exits(0).says("locked    limits sha256:");
    plan(&qhost).exits(0);
    qhost.run(&["config", "check"]).exits(0);
    qhost.run(&["policy", "lock", "--check"]).exits(0).says("unchanged");
    let lock = qhost.folder().join("qhost.lock");
    let text = fs::read_to_string(&lock).unwrap();
    assert!(text.contains(&format!("sha256 = \"{}\"", sha256(&file))), "{text}");

    let other = fs::read(policy("ports")).unwrap();
    fs::write(&file, &other).unwrap();
    plan(&qhost).exits(12).says("and the configuration pins sha256:");
    qhost.run(&["policy", "lock", "--check"]).exits(1).says("changed");
    assert_eq!(fs::read_to_string(&lock).unwrap(), text, "a check wrote");
    qhost.run(&["policy", "lock"]).exits(0);
    plan(&qhost).exits(2).says("refuses its settings");

    fs::write(&lock, "[policies.limits]\nsha256 = \"12\"\n").unwrap();
    plan(&qhost).exits(2).says("qhost.lock").says("not 64 hexadecimal digits");
    fs::write(&lock, "[policy.limits]\n").unwrap();
    plan(&qhost).exits(2).says("unknown field `policy`");
    // The digest is given twice, and the two differ.
    fs::write(&lock, format!("[policies.limits]\nsha256 = \"{}\"\n", "0".repeat(64))).unwrap();
    qhost.config(&format!(
        "[policies.limits]\nmodule = \"limits.wasm\"\nsha256 = \"{}\"\n",
        sha256(&file)
    ));
    plan(&qhost).exits(2).says("in the lock file; remove one");
}

fn pushed(qhost: &Qhost, file: &str, place: &str) -> Value {
    qhost.run(&["policy", "push", file, place, "--plain-http", "--json"]).exits(0).json()
}

#[test]
fn a_policy_goes_through_a_registry() {
    let registry = Registry::start();
    let qhost = qhost();
    let file = copy(&qhost, "limits", "limits.wasm");
    let keys = ["one", "two"].map(|name| key(&qhost, name));
    sign(&qhost, &file, "one");
    sign(&qhost, &file, "two");
    let place = registry.place("policies/limits:1.0");
    let first = pushed(&qhost, &file, &place);
    assert_eq!((&first["sha256"], &first["signatures"]), (&json!(sha256(&file)), &json!(2)));
    assert_eq!(pushed(&qhost, &file, &place), first, "the same policy has the same digest");

    // The layout that other tools of the ecosystem expect.
    let manifest: Value =
        serde_json::from_str(&registry.manifest("policies/limits", "1.0")).expect("JSON");
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
    assert_eq!(manifest["annotations"]["org.opencontainers.image.title"], "limits");
    let config = manifest["config"]["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let config: Value =
        serde_json::from_slice(&fs::read(registry.blob(config)).unwrap()).expect("JSON");
    assert_eq!((&config["architecture"], &config["os"]), (&json!("wasm"), &json!("wasip2")));
    assert_eq!(config["layerDigests"][0], format!("sha256:{}", sha256(&file)));
    assert_eq!(config["component"]["exports"], json!(["qhost:policy/decide@0.2.0"]));

    let digest = first["manifest"].as_str().expect("a digest");
    let by_digest = registry.place(&format!("policies/limits@{digest}"));
    for (name, place) in [("tagged", &place), ("pinned", &by_digest)] {
        let named = format!("{name}={place}");
        let pulled = qhost.run(&["policy", "pull", &named, "--plain-http"]).exits(0).says(digest);
        assert!(pulled.stdout.contains("signature"), "{}", pulled.stdout);
        let file = qhost.folder().join(name).with_extension("wasm");
        let file = file.to_str().unwrap();
        let args = ["policy", "verify", file, "--key", &keys[0], "--key", &keys[1]];
        qhost.run(&args).exits(0).says("2 of 2 needed");
    }
    let plain = ["policy", "pull", &place];
    qhost.run(&plain).exits(13).says("the registry 127.0.0.1");
}

#[test]
fn a_pulled_policy_is_locked_and_a_tag_that_moved_is_noticed() {
    let registry = Registry::start();
    let qhost = qhost();
    let [limits, ports] = ["limits", "ports"].map(|name| copy(&qhost, name, name));
    let place = registry.place("policies/rules:1.0");
    let first = pushed(&qhost, &format!("rules={limits}"), &place);
    qhost.config("[policies.rules]\nmodule = \"pulled/rules.wasm\"\n[host]\nchain = [\"rules\"]\n");
    let pull = ["policy", "pull", &place, "--plain-http"];
    qhost.run(&pull).exits(0).says("locked    rules in");
    plan(&qhost).exits(0).says("allowed by rules");
    let lock = fs::read_to_string(qhost.folder().join("qhost.lock")).unwrap();
    for text in [&first["sha256"], &first["manifest"], &json!(place)] {
        assert!(lock.contains(text.as_str().unwrap()), "{lock}");
    }
    qhost.run(&pull).exits(0);

    let second = pushed(&qhost, &format!("rules={ports}"), &place);
    qhost
        .run(&pull)
        .exits(1)
        .says(&format!("ties rules to sha256:{}", first["sha256"].as_str().unwrap()))
        .says("--update takes it");
    plan(&qhost).exits(0);
    qhost.run(&["policy", "pull", &place, "--plain-http", "--update"]).exits(0);
    let lock = fs::read_to_string(qhost.folder().join("qhost.lock")).unwrap();
    assert!(lock.contains(second["sha256"].as_str().unwrap()), "{lock}");
    for file in ["qhost.lock", "pulled/rules.wasm"] {
        let mode = fs::metadata(qhost.folder().join(file)).unwrap().permissions().mode();
        assert_ne!(mode & 0o044, 0, "{file} is for others to read");
    }

    // A pulled file that goes elsewhere does not concern the configuration; no pull changes a digest that the configuration itself pins.
    pushed(&qhost, &format!("rules={limits}"), &place);
    let elsewhere = ["policy", "pull", &place, "--plain-http", "--output", "elsewhere.wasm"];
    qhost.run(&elsewhere).exits(0);
    assert_eq!(fs::read_to_string(qhost.folder().join("qhost.lock")).unwrap(), lock);
    qhost.config(&format!(
        "[policies.rules]\nmodule = \"pulled/rules.wasm\"\nsha256 = {}\n",
        second["sha256"]
    ));
    let done = qhost.run(&["policy", "pull", &place, "--plain-http", "--update"]).exits(1);
    done.says("qhost.toml ties rules to").says("change it there first");
    let file = qhost.folder().join("pulled/rules.wasm");
    assert_eq!(sha256(file.to_str().unwrap()), second["sha256"].as_str().unwrap());
}

#[test]
fn what_a_registry_has_is_not_believed() {
    let registry = Registry::start();
    let qhost = qhost();
    let file = copy(&qhost, "limits", "limits.wasm");
    let place = registry.place("policies/limits:1.0");
    let first = pushed(&qhost, &file, &place);
    let pull = |tag: &str| {
        let place = registry.place(&format!("policies/limits{tag}"));
        qhost.run(&["policy", "pull", &format!("pulled={place}"), "--plain-http"])
    };
    pull(":2.0").exits(13).says("manifest unknown");
    pull(&format!("@sha256:{}", "0".repeat(64))).exits(13);
    let manifest = registry.manifest("policies/limits", "1.0");
    for (tag, altered, says) in [
        ("kind", manifest.replace("\"application/wasm\"", "\"application/x-tar\""), "x-tar"),
        (
            "none",
            {
                let mut manifest: Value = serde_json::from_str(&manifest).unwrap();
                manifest["layers"] = json!([]);
                manifest.to_string()
            },
            "it has 0 layers",
        ),
    ] {
        registry.put_manifest("policies/limits", tag, &altered);
        pull(&format!(":{tag}")).exits(13).says("is no WebAssembly policy").says(says);
    }
    // The registry hands out another blob under a digest.
    let blob = registry.blob(first["sha256"].as_str().unwrap());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[100] ^= 1;
    fs::write(&blob, bytes).unwrap();
    pull(":1.0").exits(1).says("its file has sha256:").says("and should have sha256:");
    assert!(!qhost.folder().join("pulled.wasm").exists());

    qhost.run(&["policy", "push", &file, "limits:1", "--plain-http"]).exits(2).says("no registry");
    let pinned = registry.place(&format!("policies/limits@sha256:{}", "0".repeat(64)));
    qhost.run(&["policy", "push", &file, &pinned, "--plain-http"]).exits(2).says("needs a tag");
    let text = qhost.file("text.wasm", "no wasm");
    qhost.run(&["policy", "push", &text, &place, "--plain-http"]).exits(12);
}

/// An author tries a draft before it is signed, under the settings of the policy that it is to replace, and names the project's folder.
#[test]
fn a_draft_is_tried_unsigned_and_a_projects_folder_is_signed() {
    let qhost = qhost();
    fs::create_dir(qhost.folder().join("limits")).unwrap();
    let file = copy(&qhost, "limits", "limits/limits.wasm");
    let release = key(&qhost, "release");
    configure(&qhost, &file, &[&release], "");
    sign(&qhost, "limits", "release");
    qhost.run(&["policy", "verify", "limits", "--key", "release.pub"]).exits(0);
    // The task takes 32 MiB of the 64 that are allowed.
    plan(&qhost).exits(0);
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    qhost.run(&["run", &job]).exits(13);
    let draft = copy(&qhost, "limits", "draft.wasm");
    let draft = format!("limits={draft}");
    let replayed = qhost.run(&["policy", "replay", "--policy", &draft, "--json"]).exits(0).json();
    assert_eq!((&replayed["records"], &replayed["identical"]), (&json!(1), &json!(1)));
    fs::remove_file(&file).unwrap();
    qhost.run(&["policy", "sign", "limits", "--key", "release.key"]).exits(2).says("has no policy");
    let push = ["policy", "push", "limits", "127.0.0.1:1/policies/limits:1.0", "--plain-http"];
    qhost.run(&push).exits(2).says("qhost policy build limits makes it");
}

#[test]
fn a_policy_that_is_elsewhere_is_to_be_pulled_first() {
    let qhost = qhost();
    for (given, place) in [
        ("oci://registry.example/policies/rules:1.2", "registry.example/policies/rules:1.2"),
        ("registry.example/policies/rules:1.2", "registry.example/policies/rules:1.2"),
        ("rules=registry.example/policies/rules:1.2", "registry.example/policies/rules:1.2"),
        ("localhost:5000/rules:1.2", "localhost:5000/rules:1.2"),
    ] {
        let says = format!("a file is expected: run qhost policy pull {place}, then name its file");
        qhost.run(&["plan", "--policy", given, "job.json"]).exits(2).says(&says);
    }
    let url = ["plan", "--policy", "https://example.org/p.wasm", "job.json"];
    qhost.run(&url).exits(2).says("a URL, and a file is expected: download it");
    // A path that only looks like a registry's place is a file.
    let odd = qhost.file("rules:1.2", fs::read(policy("limits")).expect("a policy"));
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    qhost.run(&["plan", "--policy", &format!("odd={odd}"), &job]).exits(0);
}
