//! What each request code does, a file per family.
//!
//! A verb takes the request, and who asks where the rules want to know it, and returns the response or a
//! [`Refusal`]. Sends and pulls, which wait, hand their answers to the connection instead.

pub(crate) mod admin;
pub(crate) mod client;
pub(crate) mod group;
pub(crate) mod lock;
pub(crate) mod offset;
pub(crate) mod pull;
pub(crate) mod query;
pub(crate) mod relay;
pub(crate) mod reply;
pub(crate) mod send;
pub(crate) mod topic;
pub(crate) mod transaction;

use bytestring::ByteString;
use serde::{Serialize, de::DeserializeOwned};
use wire::{fastjson, frame::Frame};

use super::errors::Refusal;

/// Reads the JSON body of a request.
fn read_body<T: DeserializeOwned>(request: &Frame) -> Result<T, Refusal> {
    fastjson::decode(&request.body_bytes())
        .map_err(|error| Refusal::body(request.request_code(), error))
}

/// Adds a JSON body to a response.
fn with_json(response: Frame, body: &impl Serialize) -> Frame {
    response.with_body(fastjson::encode(body))
}

fn to_strings(names: Vec<ByteString>) -> Vec<String> {
    names.into_iter().map(String::from).collect()
}
