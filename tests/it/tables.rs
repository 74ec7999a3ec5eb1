//! The operator's tables: a policy's look-ups, a record's rows, and a replay with the same rows.

use std::fs;

use serde_json::{Value, json};

use qhost_model::digest::Sha256;
use qhost_tests::{
    Done, ImageServer, Qhost,
    boot_sector::{self, Then},
    configured,
};

use crate::{decisions::records, qhost};

fn asks(qhost: &Qhost, data: &str) {
    let chain = "[host]\nchain = [\"sizes\"]\n";
    qhost
        .config(&[configured("sizes", "sizes", json!({}), ""), chain.into(), data.into()].concat());
}

const DATA: &str = "[data.sizes]\nfile = \"sizes.json\"\n";

fn plan(qhost: &Qhost) -> Done {
    qhost
        .run(&["plan", &qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}))])
}

#[test]
fn a_decision_goes_by_a_table_and_is_made_again_by_the_same() {
    let (qhost, server) = (qhost(), ImageServer::start());
    asks(&qhost, DATA);
    let small = json!({"*": {"memory_mib": 16}}).to_string();
    qhost.file("sizes.json", &small);
    let image = server.serve("/image", boot_sector::disk("runs", Then::PowerOff));
    let job = qhost.job(&image, json!({}));
    qhost.run(&["run", &job]).exits(11).says("32 MiB is more than the 16 that default may have");
    qhost.file("sizes.json", json!({"*": {"memory_mib": 16}, "default": {}}).to_string());
    qhost.run(&["run", &job]).exits(0);
    let tables = |record: &Value| record["decision"]["policies"][0]["tables"]["sizes"].clone();
    let (refused, allowed) = (&records(&qhost)[0], &records(&qhost)[1]);
    assert_eq!(tables(refused), json!(Sha256::of(small.as_bytes())));
    assert_ne!(tables(refused), tables(allowed));

    // Each decision is made again with its own rows, whatever the table is now.
    qhost.file("sizes.json", "{}");
    plan(&qhost).exits(11).says("the table sizes has no row for default");
    let log = qhost.state().join("decisions/tenant-default/current.jsonl");
    let replay = || qhost.run(&["policy", "replay", log.to_str().unwrap()]);
    replay().exits(0).says("2 identical");
    let kept = qhost.state().join("data").join(format!("{}.json", Sha256::of(small.as_bytes())));
    fs::write(&kept, "{\"*\": {}}").unwrap();
    replay()
        .exits(0)
        .says("its table sizes is not kept any more")
        .says("has another digest than its name");
    fs::remove_file(&kept).unwrap();
    replay().exits(0).says("1 identical").says("cannot be decided again");
}

#[test]
fn a_table_that_is_not_there_or_no_table_is_the_operators_error() {
    let qhost = qhost();
    asks(&qhost, "");
    plan(&qhost).exits(2).says("looks things up in the table sizes").says("add [data.sizes]");
    asks(&qhost, DATA);
    plan(&qhost).exits(2).says("the table sizes: cannot read").says("sizes.json");
    for wrong in ["[]", "{\"a\": }", "{\"a\": 1} x"] {
        qhost.file("sizes.json", wrong);
        plan(&qhost).exits(2).says("the table sizes: ").says("at line 1 column ");
    }
    let file = qhost.file("sizes.json", "{\"*\": {}}");
    plan(&qhost).exits(0);
    qhost_tests::succeed("chmod", &["666", &file]);
    plan(&qhost).exits(2).says("cannot be relied upon");
    // A row that does not suit the policy is the policy's to refuse.
    qhost_tests::succeed("chmod", &["644", &file]);
    qhost.file("sizes.json", "{\"*\": {\"memory\": 16}}");
    plan(&qhost).exits(11).says("the table sizes has no good row for default");
}
