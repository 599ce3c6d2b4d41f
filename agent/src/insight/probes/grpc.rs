//! The answer of a gRPC health check, as far as it can be read without decompressing headers:
//! the message in the first DATA frame.

use prost::Message as _;
use tonic_health::pb::HealthCheckResponse;
use tonic_health::pb::health_check_response::ServingStatus;

/// What an HTTP/2 client says first (RFC 9113 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame's header: length (3 octets), type, flags, stream (RFC 9113 4.1).
const FRAME: usize = 9;
/// Type of a DATA frame, and its flag for padding (RFC 9113 6.1).
const DATA: u8 = 0;
const PADDED: u8 = 8;
/// gRPC puts compression flag and length (4 octets) before a message.
const PREFIX: usize = 5;

/// The status in the answer; `None` when there is none that can be read.
pub fn health(mut bytes: &[u8]) -> Option<&'static str> {
    loop {
        let (header, rest) = bytes.split_at_checked(FRAME)?;
        let &[l0, l1, l2, kind, flags, ..] = header else {
            return None;
        };
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        let (frame, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        if kind != DATA {
            continue;
        }
        if flags & PADDED != 0 {
            return None;
        }
        let (prefix, message) = frame.split_at_checked(PREFIX)?;
        // A compressed message cannot be read.
        if prefix.first() != Some(&0) {
            return None;
        }
        let response = HealthCheckResponse::decode(message).ok()?;
        let status = ServingStatus::try_from(response.status).ok()?;
        return Some(status.as_str_name());
    }
}

/// Whether a status is the one that kubelets are content with.
pub fn is_serving(status: &str) -> bool {
    status == ServingStatus::Serving.as_str_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn the_message_after_settings_and_headers() {
        let mut bytes = frame(4, 0, &[0; 6]);
        bytes.extend(frame(1, 4, &[0x88]));
        bytes.extend(frame(DATA, 0, &[0, 0, 0, 0, 2, 8, 1]));
        assert_eq!(health(&bytes), Some("SERVING"));
        assert!(is_serving("SERVING"));
    }

    #[test]
    fn everything_else_is_not_read() {
        assert_eq!(health(b""), None);
        assert_eq!(health(&frame(DATA, 0, &[1, 0, 0, 0, 2, 8, 1])), None);
        assert_eq!(health(&frame(DATA, 0, &[0, 0, 0, 0, 2, 8, 99])), None);
        assert_eq!(health(&frame(DATA, PADDED, &[0; 9])), None);
        assert_eq!(health(&frame(DATA, 0, &[0])), None);
        assert_eq!(health(&[0xff; 40]), None);
    }
}
