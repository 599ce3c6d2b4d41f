//! The JSON form of a message: protobuf's own mapping with the names of the `.proto` files, on
//! one line.

mod flow;

use std::io;
use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};
use serde::Serialize as _;
use serde_json::ser::{CompactFormatter, Formatter};

use super::proto::DESCRIPTORS;
use super::proto::observer::GetFlowsResponse;

/// Name of the record of the flow log.
const RECORD: &str = "observer.GetFlowsResponse";

/// Name of what `Node/Describe` answers.
pub const DESCRIBE: &str = "nodescope.v1.DescribeResponse";

/// Name of what `Nat/Translations` answers.
pub const TRANSLATION: &str = "nodescope.v1.Translation";

/// Name of what `Nat/Ports` answers.
pub const SNAT_PORTS: &str = "nodescope.v1.SnatPorts";

/// Name of a loss of `Drops/List`.
pub const DROP_REPORT: &str = "nodescope.v1.DropReport";

/// Why a message has no JSON form, or a JSON text is no message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptors do not have the message.
    #[error("message {0}: not in the descriptors of this build")]
    Descriptor(String),
    /// The text is not the JSON form of the message.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The message does not fit its descriptor.
    #[error("message does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
}

static POOL: LazyLock<Result<DescriptorPool, String>> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).map_err(|error| error.to_string()));

fn dynamic(name: &str) -> Result<prost_reflect::MessageDescriptor, Error> {
    let pool = POOL
        .as_ref()
        .map_err(|error| Error::Descriptor(format!("{name} ({error})")))?;
    pool.get_message_by_name(name)
        .ok_or_else(|| Error::Descriptor(name.to_owned()))
}

/// Appends a message called `name` to `out`, without a line end.
///
/// # Errors
/// When the message is not of that name.
pub fn write(name: &str, message: &impl Message, out: &mut Vec<u8>) -> Result<(), Error> {
    write_with(SerializeOptions::new(), name, message, out)
}

/// As [`write`], with the fields that are empty, zero or false as well.
///
/// # Errors
/// When the message is not of that name.
pub fn write_whole(name: &str, message: &impl Message, out: &mut Vec<u8>) -> Result<(), Error> {
    let options = SerializeOptions::new()
        .skip_default_fields(false)
        .stringify_64_bit_integers(false);
    write_with(options, name, message, out)
}

fn write_with(
    options: SerializeOptions,
    name: &str,
    message: &impl Message,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let decoded = DynamicMessage::decode(dynamic(name)?, message.encode_to_vec().as_slice())?;
    let options = options.use_proto_field_name(true);
    let mut serializer = serde_json::Serializer::with_formatter(out, Plain(CompactFormatter));
    Ok(decoded.serialize_with_options(&mut serializer, &options)?)
}

/// Appends the record of a flow to `out`, without a line end.
///
/// # Errors
/// When it cannot be put into JSON.
pub fn write_record(record: &GetFlowsResponse, out: &mut Vec<u8>) -> Result<(), Error> {
    let Some(plain) = flow::Plain::of(record) else {
        return write(RECORD, record, out);
    };
    let mut serializer = serde_json::Serializer::with_formatter(out, Plain(CompactFormatter));
    Ok(plain.serialize(&mut serializer)?)
}

/// Reads a line of a flow log. Fields that this build does not know are skipped.
///
/// # Errors
/// When it is not the JSON form of a record.
pub fn read_record(line: &str) -> Result<GetFlowsResponse, Error> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let decoded =
        DynamicMessage::deserialize_with_options(dynamic(RECORD)?, &mut deserializer, &options)?;
    deserializer.end()?;
    Ok(decoded.transcode_to()?)
}

/// Writes whole numbers without a fraction: a `Struct` has only doubles, and 5 packets are not
/// `5.0` packets.
struct Plain(CompactFormatter);

impl Formatter for Plain {
    fn write_f64<W: ?Sized + io::Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        // Doubles hold whole numbers exactly up to 2^53.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if value.fract() == 0.0 && value.abs() <= EXACT {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "whole and within the range"
            )]
            return self.0.write_i64(out, value as i64);
        }
        self.0.write_f64(out, value)
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
