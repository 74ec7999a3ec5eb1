//! Policies written by hand in WebAssembly text, which no compiler would make.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A core module of a policy's world, which qhost makes a component. `fields` are added to it; if they define
/// `$describe`, `$start` or `$memory`, these take the place of the harmless ones.
///
/// The module's memory is all zeros, so that it answers with texts of no bytes, no schema and no violations.
///
/// The module is of the contract's version 0.1, in which a launch of zeros is a possible one.
pub fn module(fields: &str) -> Vec<u8> {
    module_of("0.1.0", include_str!("../../wit/0.1/policy.wit"), fields)
}

/// A core module as [`module`] makes it, of the newest contract.
pub fn module_of_today(fields: &str) -> Vec<u8> {
    module_of("0.2.0", include_str!("../../wit/policy.wit"), fields)
}

fn module_of(version: &str, contract: &str, fields: &str) -> Vec<u8> {
    let unless = |name: &str, field: &str| {
        if fields.contains(name) { String::new() } else { field.to_owned() }
    };
    let text = format!(
        r#"(module
            {memory}
            {describe}
            {realloc}
            {choose}
            (func $ok (param i32 i32) (result i32) i32.const 1024)
            (func $validate (param i32) (result i32) i32.const 1024)
            (export "memory" (memory $memory))
            (export "cabi_realloc" (func $realloc))
            (export "qhost:policy/decide@{version}#describe" (func $describe))
            (export "qhost:policy/decide@{version}#check-settings" (func $ok))
            (export "qhost:policy/decide@{version}#choose" (func $choose))
            (export "qhost:policy/decide@{version}#validate" (func $validate))
            {permit}
            {fields})"#,
        memory = unless("$memory", "(memory $memory 2)"),
        describe = unless("$describe", "(func $describe (result i32) i32.const 1024)"),
        choose = unless("$choose", "(func $choose (param i32) (result i32) i32.const 1024)"),
        permit = if contract.contains("permit: func") {
            format!(r#"(export "qhost:policy/decide@{version}#permit" (func $validate))"#)
        } else {
            String::new()
        },
        // Every allocation gets the same place, which no function reads.
        realloc = unless(
            "$realloc",
            "(func $realloc (param i32 i32 i32 i32) (result i32) i32.const 65536)"
        ),
    );
    let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", contract).expect("the contract");
    let world = resolve.select_world(&[package], Some("policy")).expect("its world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("the world's type");
    module
}

/// Makes a component of a core module.
pub fn component_of(module: &[u8]) -> Vec<u8> {
    let encoder = ComponentEncoder::default();
    encoder.module(module).expect("a core module").encode().expect("its component")
}

/// A component of this text.
pub fn component(fields: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {fields})")).unwrap_or_else(|error| panic!("{error}"))
}

/// Components inside one another, so many deep.
pub fn nested(depth: usize) -> Vec<u8> {
    let header = b"\0asm\x0d\0\x01\0";
    let mut bytes = header.to_vec();
    for _ in 0..depth {
        let mut length = vec![];
        let mut left = bytes.len();
        loop {
            let low = u8::try_from(left & 0x7f).expect("seven bits");
            left >>= 7;
            if left == 0 {
                length.push(low);
                break;
            }
            length.push(low | 0x80);
        }
        bytes = [header.as_slice(), &[4], &length, &bytes].concat();
    }
    bytes
}
