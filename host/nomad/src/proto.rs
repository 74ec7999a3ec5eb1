//! The protocol's messages and services, compiled from `proto/`.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::all,
    reason = "this code is generated"
)]

tonic::include_proto!("services");

pub use hashicorp::nomad::plugins::{
    base::proto as base,
    drivers::proto as driver,
    shared::{hclspec, structs},
};
