//! What we offer: virtio features, vhost-user features, the device's configuration space.
//!
//! Pure: numbers in, bytes out.

use vhost::vhost_user::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::{virtio_blk, virtio_config, virtio_ring};

use crate::request::{MAX_RANGE_SECTORS, MAX_RANGES, SECTOR_BYTES};

/// How much of the configuration space a front end may ask about. Beyond what we fill in, it
/// reads as zeros: structures grow at their end.
pub(crate) const CONFIG_BYTES: usize = 256;
/// Queues offered at most.
pub const MAX_QUEUES: u16 = 64;
/// Segments in a request: what fits in a queue of 128 beside header and status.
const MAX_SEGMENTS: u32 = 126;
/// A block of ours in sectors, as a power of two and as a number.
const BLOCK_SECTORS_EXPONENT: u8 = 3;
const BLOCK_SECTORS: u16 = 1 << BLOCK_SECTORS_EXPONENT;

const fn bit(number: u32) -> u64 {
    1 << number
}

/// What was agreed with the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features(pub(crate) u64);

impl Features {
    /// All that we offer.
    pub(crate) fn offered(read_only: bool) -> Self {
        let always = bit(virtio_config::VIRTIO_F_VERSION_1)
            | bit(virtio_ring::VIRTIO_RING_F_INDIRECT_DESC)
            | bit(virtio_ring::VIRTIO_RING_F_EVENT_IDX)
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
            | bit(virtio_blk::VIRTIO_BLK_F_SEG_MAX)
            | bit(virtio_blk::VIRTIO_BLK_F_BLK_SIZE)
            | bit(virtio_blk::VIRTIO_BLK_F_TOPOLOGY)
            | bit(virtio_blk::VIRTIO_BLK_F_FLUSH)
            | bit(virtio_blk::VIRTIO_BLK_F_MQ);
        let by_access = if read_only {
            bit(virtio_blk::VIRTIO_BLK_F_RO)
        } else {
            bit(virtio_blk::VIRTIO_BLK_F_DISCARD) | bit(virtio_blk::VIRTIO_BLK_F_WRITE_ZEROES)
        };
        Self(always | by_access)
    }

    /// Whether `other` has nothing that these have not.
    pub(crate) fn include(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    fn has(self, number: u32) -> bool {
        self.0 & bit(number) != 0
    }

    pub(crate) fn event_index(self) -> bool {
        self.has(virtio_ring::VIRTIO_RING_F_EVENT_IDX)
    }

    pub(crate) fn flush(self) -> bool {
        self.has(virtio_blk::VIRTIO_BLK_F_FLUSH)
    }

    pub(crate) fn discard(self) -> bool {
        self.has(virtio_blk::VIRTIO_BLK_F_DISCARD)
    }

    pub(crate) fn write_zeroes(self) -> bool {
        self.has(virtio_blk::VIRTIO_BLK_F_WRITE_ZEROES)
    }

    /// Whether rings wait for SET_VRING_ENABLE.
    pub(crate) fn protocol_features(self) -> bool {
        self.0 & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0
    }
}

/// The extensions of vhost-user that we offer.
pub(crate) fn protocol_features() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::BACKEND_REQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
}

/// The configuration space of a disk of this size (struct virtio_blk_config).
pub(crate) fn config_space(size_bytes: u64, queues: u16) -> [u8; CONFIG_BYTES] {
    let mut space = Space { bytes: [0; CONFIG_BYTES] };
    space.put(0, (size_bytes / SECTOR_BYTES).to_le_bytes()); // capacity
    space.put(12, MAX_SEGMENTS.to_le_bytes()); // seg_max
    space.put(20, 512u32.to_le_bytes()); // blk_size
    space.put(24, [BLOCK_SECTORS_EXPONENT]); // physical_block_exp
    space.put(26, BLOCK_SECTORS.to_le_bytes()); // min_io_size
    space.put(32, [1]); // wce: we cache until flushed
    space.put(34, queues.to_le_bytes()); // num_queues
    space.put(36, MAX_RANGE_SECTORS.to_le_bytes()); // max_discard_sectors
    space.put(40, MAX_RANGES.to_le_bytes()); // max_discard_seg
    space.put(44, u32::from(BLOCK_SECTORS).to_le_bytes()); // discard_sector_alignment
    space.put(48, MAX_RANGE_SECTORS.to_le_bytes()); // max_write_zeroes_sectors
    space.put(52, MAX_RANGES.to_le_bytes()); // max_write_zeroes_seg
    space.put(56, [1]); // write_zeroes_may_unmap
    space.bytes
}

struct Space {
    bytes: [u8; CONFIG_BYTES],
}

impl Space {
    fn put<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        self.bytes[at..at + N].copy_from_slice(&value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_space_is_virtio_blks() {
        let space = config_space(1 << 30, 4);
        assert_eq!(space[0..8], (1u64 << 21).to_le_bytes(), "capacity in sectors");
        assert_eq!(space[8..12], [0; 4], "size_max is not offered");
        assert_eq!(space[20..24], [0, 2, 0, 0], "512-byte sectors");
        assert_eq!(space[24..28], [3, 0, 8, 0], "4 KiB physical blocks");
        assert_eq!(space[34..36], [4, 0], "num_queues");
        assert_eq!(space[60..], [0; 196], "nothing that we do not offer");
    }

    #[test]
    fn a_read_only_disk_offers_no_way_to_change_it() {
        let (writable, fixed) = (Features::offered(false), Features::offered(true));
        assert!(writable.discard() && writable.write_zeroes() && !writable.has(5));
        assert!(!fixed.discard() && !fixed.write_zeroes() && fixed.has(5));
    }
}
