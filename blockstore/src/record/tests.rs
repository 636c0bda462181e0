//! What a header's codec lets through, and what it does not.

use proptest::prelude::*;

use super::*;

const NONCE: Nonce = Nonce([0xab; 16]);

fn entry() -> impl Strategy<Value = ChainEntry> {
    let data = (0..=MAX_44, 0..=MAX_44, any::<u32>()).prop_map(|(vba, addr, crc)| {
        ChainEntry::Data { vba: VirtualBlock::of(vba), addr: BlockAddr::of(addr), crc }
    });
    let zero = (0..=MAX_44, 0..=MAX_44).prop_map(|(a, b)| {
        let range = a.min(b)..a.max(b) + 1;
        ChainEntry::Zero { range }
    });
    let require = (any::<u32>(), 0..=MAX_SEQUENCE).prop_map(|(disk, sequence)| {
        ChainEntry::Require { disk: DiskId(disk), sequence: Sequence(sequence) }
    });
    prop_oneof![data, zero, require]
}

prop_compose! {
    fn header()(
        sequence in 1..=MAX_SEQUENCE,
        behind in 1..1000_u64,
        epoch in 0..=MAX_44,
        at in 0..=MAX_44,
        next_at in 0..=MAX_44,
        previous_crc: u32,
        continues: bool,
        entries in prop::collection::vec(entry(), 0..=MAX_ENTRIES),
    ) -> RecordHeader {
        RecordHeader {
            sequence: Sequence(sequence),
            epoch: Epoch::of(epoch),
            at: BlockAddr::of(at),
            synced_upto: Sequence(sequence.saturating_sub(behind)),
            next_at: BlockAddr::of(next_at),
            previous_crc,
            group: if continues { GroupEnd::Later } else { GroupEnd::Here },
            entries,
        }
    }
}

fn encoded(header: &RecordHeader) -> ([u8; BLOCK_BYTES], u32) {
    let mut block = [0xee; BLOCK_BYTES];
    let crc = header.encode(NONCE, &mut block);
    (block, crc)
}

/// Makes the checksum right again, as a forger would.
fn reseal(block: &mut [u8; BLOCK_BYTES]) {
    let crc = crc32fast::hash(&block[..CRC_OFFSET]);
    block[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(header in header()) {
        let (block, crc) = encoded(&header);
        let decoded = RecordHeader::decode(&block, NONCE, header.at);
        prop_assert_eq!(decoded, Ok((header, crc)));
    }

    #[test]
    fn no_flipped_bit_is_accepted(header in header(), bit in 0..BLOCK_BYTES * 8) {
        let (mut block, _) = encoded(&header);
        block[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(RecordHeader::decode(&block, NONCE, header.at).is_err());
    }

    #[test]
    fn a_torn_header_is_refused(old in header(), new in header(), mask in 1..255_u8) {
        prop_assume!(old != new);
        let (mut block, crc) = encoded(&new);
        let (old_block, _) = encoded(&RecordHeader { at: new.at, ..old });
        for sector in (0..8).filter(|sector| mask & (1 << sector) != 0) {
            let bytes = sector * 512..(sector + 1) * 512;
            block[bytes.clone()].copy_from_slice(&old_block[bytes]);
        }
        if let Ok(found) = RecordHeader::decode(&block, NONCE, new.at) {
            // What the tear lost was the same in both, or it lost all.
            prop_assert!(found == (new, crc) || block == old_block);
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error_and_no_panic(
        bytes in prop::collection::vec(any::<u8>(), BLOCK_BYTES),
    ) {
        let mut block: [u8; BLOCK_BYTES] = bytes.try_into().expect("a block");
        block[..4].copy_from_slice(&MAGIC.to_le_bytes());
        block[4..8].copy_from_slice(&[1, 0, 0, 0]);
        block[8..24].copy_from_slice(&NONCE.0);
        block[40..48].copy_from_slice(&5_u64.to_le_bytes());
        reseal(&mut block);
        prop_assert!(RecordHeader::decode(&block, NONCE, BlockAddr::of(5)).is_err());
    }
}

fn plain() -> RecordHeader {
    RecordHeader {
        sequence: Sequence(7),
        epoch: Epoch::of(3),
        at: BlockAddr::of(100),
        synced_upto: Sequence(4),
        next_at: BlockAddr::of(101),
        previous_crc: 0xdead_beef,
        group: GroupEnd::Here,
        entries: vec![
            ChainEntry::Data {
                vba: VirtualBlock::of(1),
                addr: BlockAddr::of(0xabc_def0_1234),
                crc: 9,
            },
            ChainEntry::Zero { range: 10..20 },
            ChainEntry::Require { disk: DiskId(2), sequence: Sequence(77) },
        ],
    }
}

#[test]
fn the_layout_is_the_documented_one() {
    let (block, crc) = encoded(&plain());
    assert_eq!(block[..8], *b"BchR\x01\0\0\0");
    assert_eq!(block[8..24], [0xab; 16]);
    assert_eq!(block[24..32], 7_u64.to_le_bytes());
    assert_eq!(block[32..40], 3_u64.to_le_bytes());
    assert_eq!(block[40..48], 100_u64.to_le_bytes());
    assert_eq!(block[48..56], 4_u64.to_le_bytes());
    assert_eq!(block[56..64], 101_u64.to_le_bytes());
    assert_eq!(block[64..68], 0xdead_beef_u32.to_le_bytes());
    assert_eq!(block[68..70], 3_u16.to_le_bytes());
    assert_eq!(block[96..104], (1 | 1 << 8 | 0x234_u64 << 52).to_le_bytes());
    assert_eq!(block[104..112], (0xabcd_ef01_u64 | 9 << 32).to_le_bytes());
    assert_eq!(block[112..120], (2_u64 | 10 << 8).to_le_bytes());
    assert_eq!(block[120..128], 10_u64.to_le_bytes());
    assert_eq!(block[128..136], (3_u64 | 2 << 8).to_le_bytes());
    assert_eq!(block[136..144], 77_u64.to_le_bytes());
    assert_eq!(block[4092..], crc.to_le_bytes());
}

#[test]
fn a_header_of_another_chain_or_place_is_refused() {
    let (block, _) = encoded(&plain());
    let other_chain = RecordHeader::decode(&block, Nonce([1; 16]), BlockAddr::of(100));
    assert_eq!(other_chain, Err(HeaderFault::Nonce));
    let elsewhere = RecordHeader::decode(&block, NONCE, BlockAddr::of(101));
    assert_eq!(elsewhere, Err(HeaderFault::Misplaced));
}

#[test]
fn nothing_reserved_or_out_of_bounds_is_let_through() {
    let faults: [(usize, u8, HeaderFault); 8] = [
        (4, 2, HeaderFault::Version),
        (6, 2, HeaderFault::Reserved),
        (70, 1, HeaderFault::Reserved),
        (4085, 1, HeaderFault::Reserved),
        (200, 1, HeaderFault::Reserved),
        (69, 1, HeaderFault::Field),
        (31, 1, HeaderFault::Field),
        (96, 4, HeaderFault::Field),
    ];
    for (offset, byte, fault) in faults {
        let (mut block, _) = encoded(&plain());
        block[offset] = byte;
        reseal(&mut block);
        let decoded = RecordHeader::decode(&block, NONCE, BlockAddr::of(100));
        assert_eq!(decoded, Err(fault), "byte {offset}");
    }
}
