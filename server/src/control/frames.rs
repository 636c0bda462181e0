//! The stream that carries a disk's content through the control API, both ways.
//!
//! I own the encoding: a sequence of frames, each a header of 24 bytes (kind, a reserved zero, offset,
//! length; little-endian) and, for data and failures, `length` bytes. Offsets ascend. The last frame is
//! [`Frame::End`] or [`Frame::Failed`]; a stream that just stops was cut off and counts for
//! nothing. I never trust a length: a data frame is at most [`FRAME_MAX_BYTES`].

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The most data in one frame.
pub const FRAME_MAX_BYTES: u64 = 1 << 20;
/// The longest message of a [`Frame::Failed`].
const MESSAGE_MAX_BYTES: u64 = 1 << 16;
const HEADER_BYTES: usize = 24;
const SECTOR_BYTES: u64 = 512;

const KIND_DATA: u32 = 1;
const KIND_ZERO: u32 = 2;
const KIND_END: u32 = 3;
const KIND_FAILED: u32 = 4;

/// The media type of such a stream.
pub const FRAMES_MEDIA_TYPE: &str = "application/vnd.bough.frames";
/// The header that tells a stream's disk size beforehand.
pub const SIZE_HEADER: &str = "bough-size-bytes";

/// One step of a disk's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of the disk.
    Data {
        /// Where they belong.
        offset_bytes: u64,
        /// A multiple of 512 of them.
        data: Bytes,
    },
    /// Zeros that take no space.
    Zero {
        /// Where they begin.
        offset_bytes: u64,
        /// How many.
        length_bytes: u64,
    },
    /// All was said.
    End {
        /// The disk's size, to compare.
        size_bytes: u64,
    },
    /// The sender could not go on.
    Failed {
        /// Why.
        message: String,
    },
}

/// What is wrong with a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a kind of frame.
    #[error("the stream holds a frame of unknown kind {0}; send kinds 1 to 4")]
    UnknownKind(u32),
    /// The reserved word is not zero.
    #[error("the stream holds a frame whose reserved word is {0}; send zero")]
    Reserved(u32),
    /// A frame beyond its bounds.
    #[error("the stream holds a frame of {0} bytes; send at most {FRAME_MAX_BYTES}")]
    TooLong(u64),
    /// Not on sector borders.
    #[error(
        "the stream holds {length_bytes} bytes at {offset_bytes}; both must be multiples of 512"
    )]
    Unaligned {
        /// Where.
        offset_bytes: u64,
        /// How much.
        length_bytes: u64,
    },
    /// The end is missing.
    #[error("the stream was cut off; send it again")]
    CutOff,
}

impl Frame {
    /// The frame as it travels: header, then payload.
    pub fn encode(self) -> [Bytes; 2] {
        let (kind, offset, payload, length) = match self {
            Self::Data { offset_bytes, data } => {
                let length = bough_blockstore::to_u64(data.len());
                (KIND_DATA, offset_bytes, data, length)
            }
            Self::Zero { offset_bytes, length_bytes } => {
                (KIND_ZERO, offset_bytes, Bytes::new(), length_bytes)
            }
            Self::End { size_bytes } => (KIND_END, size_bytes, Bytes::new(), 0),
            Self::Failed { message } => {
                let length = bough_blockstore::to_u64(message.len());
                (KIND_FAILED, 0, Bytes::from(message), length)
            }
        };
        let mut header = BytesMut::with_capacity(HEADER_BYTES);
        header.put_u32_le(kind);
        header.put_u32_le(0);
        header.put_u64_le(offset);
        header.put_u64_le(length);
        [header.freeze(), payload]
    }
}

/// Turns pieces of bytes, however they arrive, into frames.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    pending: BytesMut,
}

impl FrameDecoder {
    /// Takes what has arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The next frame, once it is complete.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.pending.len() < HEADER_BYTES {
            return Ok(None);
        }
        let mut header = &self.pending[..HEADER_BYTES];
        let header = Header {
            kind: header.get_u32_le(),
            reserved: header.get_u32_le(),
            offset: header.get_u64_le(),
            length: header.get_u64_le(),
        };
        let payload_length = header.payload_length()?;
        if self.pending.len() - HEADER_BYTES < payload_length {
            self.pending.reserve(HEADER_BYTES + payload_length - self.pending.len());
            return Ok(None);
        }
        self.pending.advance(HEADER_BYTES);
        let payload = self.pending.split_to(payload_length).freeze();
        Ok(Some(header.frame(payload)))
    }
}

struct Header {
    kind: u32,
    reserved: u32,
    offset: u64,
    length: u64,
}

impl Header {
    /// How many bytes follow, once everything in the header has been checked.
    fn payload_length(&self) -> Result<usize, FrameError> {
        if self.reserved != 0 {
            return Err(FrameError::Reserved(self.reserved));
        }
        let (limit, follows) = match self.kind {
            KIND_DATA => (FRAME_MAX_BYTES, self.length),
            KIND_ZERO => (u64::MAX, 0),
            KIND_END => (0, 0),
            KIND_FAILED => (MESSAGE_MAX_BYTES, self.length),
            unknown => return Err(FrameError::UnknownKind(unknown)),
        };
        if self.length > limit {
            return Err(FrameError::TooLong(self.length));
        }
        let aligned = (self.offset | self.length).is_multiple_of(SECTOR_BYTES);
        if matches!(self.kind, KIND_DATA | KIND_ZERO) && !aligned {
            return Err(FrameError::Unaligned {
                offset_bytes: self.offset,
                length_bytes: self.length,
            });
        }
        Ok(bough_blockstore::to_usize(follows))
    }

    fn frame(self, payload: Bytes) -> Frame {
        match self.kind {
            KIND_DATA => Frame::Data { offset_bytes: self.offset, data: payload },
            KIND_ZERO => Frame::Zero { offset_bytes: self.offset, length_bytes: self.length },
            KIND_END => Frame::End { size_bytes: self.offset },
            _ => Frame::Failed { message: String::from_utf8_lossy(&payload).into_owned() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Data { offset_bytes: 0, data: Bytes::from(vec![7; 1024]) },
            Frame::Zero { offset_bytes: 1024, length_bytes: 1 << 40 },
            Frame::Data { offset_bytes: 4096, data: Bytes::new() },
            Frame::Failed { message: "the disk is damaged".into() },
            Frame::End { size_bytes: 8192 },
        ]
    }

    #[test]
    fn frames_read_back_however_the_bytes_are_split() {
        let bytes: Vec<u8> = frames().into_iter().flat_map(Frame::encode).flatten().collect();
        for piece in [1, 7, 24, 25, 1000, bytes.len()] {
            let mut decoder = FrameDecoder::default();
            let mut seen = Vec::new();
            for part in bytes.chunks(piece) {
                decoder.feed(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames(), "in pieces of {piece}");
            assert!(decoder.is_empty());
        }
    }

    fn decode(
        kind: u32,
        reserved: u32,
        offset: u64,
        length: u64,
    ) -> Result<Option<Frame>, FrameError> {
        let mut bytes = BytesMut::new();
        bytes.put_u32_le(kind);
        bytes.put_u32_le(reserved);
        bytes.put_u64_le(offset);
        bytes.put_u64_le(length);
        let mut decoder = FrameDecoder::default();
        decoder.feed(&bytes);
        decoder.next_frame()
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        assert_eq!(decode(9, 0, 0, 0), Err(FrameError::UnknownKind(9)));
        assert_eq!(decode(KIND_DATA, 1, 0, 0), Err(FrameError::Reserved(1)));
        assert_eq!(decode(KIND_DATA, 0, 0, u64::MAX), Err(FrameError::TooLong(u64::MAX)));
        assert_eq!(decode(KIND_END, 0, 0, 1), Err(FrameError::TooLong(1)));
        let unaligned = FrameError::Unaligned { offset_bytes: 1, length_bytes: 512 };
        assert_eq!(decode(KIND_ZERO, 0, 1, 512), Err(unaligned));
        assert_eq!(decode(KIND_DATA, 0, 0, 512), Ok(None), "the payload is not there yet");
    }
}
