//! The parser against well-made, ill-made and arbitrary chains.

use proptest::prelude::*;
use virtio_queue::desc::RawDescriptor;
use virtio_queue::mock::MockSplitQueue;

use super::*;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const COUNT: u16 = 16;
const MEMORY_BYTES: usize = 0x10000;
const HEADER: u64 = 0x1001; // on purpose at an odd address
const DATA: u64 = 0x2003;
const STATUS: u64 = 0x8ff7;
const INDIRECT_TABLE: u64 = 0x9000;

fn memory() -> Memory {
    crate::guest::memory_of(MEMORY_BYTES)
}

fn put_header(memory: &Memory, kind: u32, sector: u64) {
    memory.write_obj(kind.to_le(), GuestAddress(HEADER)).unwrap();
    memory.write_obj(sector.to_le(), GuestAddress(HEADER + 8)).unwrap();
}

fn put_range(memory: &Memory, index: u64, sector: u64, count: u32, flags: u32) {
    let at = DATA + index * 16;
    memory.write_obj(sector.to_le(), GuestAddress(at)).unwrap();
    memory.write_obj(count.to_le(), GuestAddress(at + 8)).unwrap();
    memory.write_obj(flags.to_le(), GuestAddress(at + 12)).unwrap();
}

fn descriptor(address: u64, bytes: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor::new(address, bytes, flags, next)
}

/// Parses a chain of these descriptors, laid out in order from index 0.
fn parse_chain(memory: &Memory, descriptors: &[Descriptor]) -> Result<Request, RequestError> {
    let queue = MockSplitQueue::new(memory, COUNT);
    for (index, descriptor) in (0..).zip(descriptors) {
        queue.desc_table().store(index, RawDescriptor::from(*descriptor)).unwrap();
    }
    parse(memory, Table { address: queue.desc_table_addr(), count: COUNT }, 0)
}

/// The usual three: header, one buffer, status.
fn usual(data_bytes: u32, data_flags: u16) -> [Descriptor; 3] {
    [
        descriptor(HEADER, 16, NEXT, 1),
        descriptor(DATA, data_bytes, NEXT | data_flags, 2),
        descriptor(STATUS, 1, WRITE, 0),
    ]
}

fn one_segment(address: u64, bytes: u32) -> Segments {
    let mut data = Segments::default();
    data.push(GuestAddress(address), bytes);
    data
}

#[test]
fn reads_and_writes_take_the_buffer_between_header_and_status() {
    let memory = memory();
    for (kind, flags, operation) in
        [(0, WRITE, Operation::Read(Sector(7))), (1, 0, Operation::Write(Sector(7)))]
    {
        put_header(&memory, kind, 7);
        let request = parse_chain(&memory, &usual(1024, flags)).unwrap();
        let data = one_segment(DATA, 1024);
        assert_eq!(request, Request { operation, data, status: GuestAddress(STATUS) });
    }
}

#[test]
fn header_data_and_status_may_be_cut_anywhere() {
    let memory = memory();
    put_header(&memory, 0, 9);
    let request = parse_chain(
        &memory,
        &[
            descriptor(HEADER, 3, NEXT, 1),
            descriptor(HEADER + 3, 13, NEXT, 2),
            descriptor(DATA, 500, NEXT | WRITE, 3),
            descriptor(DATA + 600, 13, WRITE, 0),
        ],
    )
    .unwrap();
    let mut data = one_segment(DATA, 500);
    data.push(GuestAddress(DATA + 600), 12);
    assert_eq!(request.operation, Operation::Read(Sector(9)));
    assert_eq!(request.data, data);
    assert_eq!(request.status, GuestAddress(DATA + 612));
}

#[test]
fn an_indirect_table_is_followed_once() {
    let memory = memory();
    put_header(&memory, 1, 3);
    for (index, descriptor) in (0u64..).zip(usual(512, 0)) {
        memory.write_obj(descriptor, GuestAddress(INDIRECT_TABLE + index * 16)).unwrap();
    }
    let request = parse_chain(&memory, &[descriptor(INDIRECT_TABLE, 48, INDIRECT, 0)]).unwrap();
    assert_eq!(request.operation, Operation::Write(Sector(3)));

    let nested = descriptor(INDIRECT_TABLE, 48, INDIRECT, 0);
    memory.write_obj(nested, GuestAddress(INDIRECT_TABLE)).unwrap();
    assert_eq!(parse_chain(&memory, &[nested]), Err(RequestError::NestedIndirect));
}

#[test]
fn an_indirect_table_of_impossible_length_is_refused() {
    let memory = memory();
    for bytes in [0, 15, 40, 16 * (u32::from(MAX_DESCRIPTORS) + 1), u32::MAX - 15] {
        let chain = [descriptor(INDIRECT_TABLE, bytes, INDIRECT, 0)];
        assert_eq!(parse_chain(&memory, &chain), Err(RequestError::BadIndirectTable { bytes }));
    }
}

#[test]
fn a_chain_that_comes_back_to_itself_is_refused() {
    let memory = memory();
    let chain = [descriptor(HEADER, 16, NEXT, 1), descriptor(DATA, 512, NEXT, 0)];
    assert!(matches!(parse_chain(&memory, &chain), Err(RequestError::Endless { .. })));
}

#[test]
fn an_index_beyond_the_table_is_refused() {
    let memory = memory();
    let chain = [descriptor(HEADER, 16, NEXT, COUNT)];
    let error = RequestError::BeyondTable { index: COUNT, count: COUNT };
    assert_eq!(parse_chain(&memory, &chain), Err(error));
}

#[test]
fn buffers_outside_memory_are_refused_before_anything_is_done() {
    let memory = memory();
    put_header(&memory, 1, 0);
    let end = to_u64(MEMORY_BYTES);
    for (address, bytes) in [(end, 512), (end - 511, 512), (u64::MAX - 5, 512), (0, u32::MAX)] {
        let mut chain = usual(512, 0);
        chain[1] = descriptor(address, bytes, NEXT, 2);
        assert_eq!(
            parse_chain(&memory, &chain),
            Err(RequestError::OutsideMemory { address, bytes: u64::from(bytes) })
        );
    }
}

#[test]
fn a_chain_without_header_or_status_cannot_be_answered() {
    let memory = memory();
    put_header(&memory, 1, 0);
    assert_eq!(
        parse_chain(&memory, &[descriptor(HEADER, 15, NEXT, 1), descriptor(STATUS, 1, WRITE, 0)]),
        Err(RequestError::NoHeader { bytes: 15 })
    );
    assert_eq!(
        parse_chain(&memory, &[descriptor(HEADER, 16, NEXT, 1), descriptor(DATA, 512, 0, 0)]),
        Err(RequestError::NoStatus)
    );
    assert_eq!(
        parse_chain(
            &memory,
            &[descriptor(STATUS, 1, WRITE | NEXT, 1), descriptor(HEADER, 16, 0, 0)]
        ),
        Err(RequestError::OutOfOrder)
    );
}

#[test]
fn ragged_data_and_unknown_requests_get_an_answer() {
    let memory = memory();
    put_header(&memory, 0, 0);
    let request = parse_chain(&memory, &usual(513, WRITE)).unwrap();
    assert_eq!(request.operation, Operation::Refused(Status::IoError));
    for kind in [2, 3, 10, 14, 15, u32::MAX] {
        put_header(&memory, kind, 0);
        let request = parse_chain(&memory, &usual(512, 0)).unwrap();
        assert_eq!(request.operation, Operation::Refused(Status::Unsupported), "type {kind}");
    }
}

#[test]
fn a_request_that_names_the_same_memory_over_and_over_is_refused() {
    let memory = memory();
    put_header(&memory, 0, 0);
    let (at, count) = (0x1800, 1000);
    let again = (1..count).map(|index| descriptor(0, 0xfe00, NEXT | WRITE, index + 1));
    let chain = std::iter::once(descriptor(HEADER, 16, NEXT, 1))
        .chain(again)
        .chain(std::iter::once(descriptor(STATUS, 1, WRITE, 0)));
    for (index, descriptor) in (0..).zip(chain) {
        memory.write_obj(descriptor, GuestAddress(at + index * 16)).unwrap();
    }
    let bytes = (u32::from(count) + 1) * 16;
    let request = parse_chain(&memory, &[descriptor(at, bytes, INDIRECT, 0)]).unwrap();
    assert!(request.data.bytes() > MAX_DATA_BYTES);
    assert_eq!(request.operation, Operation::Refused(Status::IoError));
}

#[test]
fn discard_ranges_are_copied_out_and_checked() {
    let memory = memory();
    put_header(&memory, 11, 0);
    put_range(&memory, 0, 8, 16, 0);
    put_range(&memory, 1, 800, 1, 0);
    let request = parse_chain(&memory, &usual(32, 0)).unwrap();
    let expected: SectorRanges = [(8, 16), (800, 1)]
        .into_iter()
        .map(|(first, count)| SectorRange { first: Sector(first), count })
        .collect();
    assert_eq!(request.operation, Operation::Discard(expected));

    let status = |bytes| parse_chain(&memory, &usual(bytes, 0)).unwrap().operation;
    assert_eq!(status(0), Operation::Refused(Status::IoError));
    assert_eq!(status(17), Operation::Refused(Status::IoError));
    assert_eq!(status(16 * (MAX_RANGES + 1)), Operation::Refused(Status::IoError));
    put_range(&memory, 1, 800, MAX_RANGE_SECTORS + 1, 0);
    assert_eq!(status(32), Operation::Refused(Status::IoError));
    put_range(&memory, 1, 800, 1, 1);
    assert_eq!(status(32), Operation::Refused(Status::Unsupported), "DISCARD with a flag");
}

#[test]
fn write_zeroes_may_carry_the_unmap_flag_and_no_other() {
    let memory = memory();
    put_header(&memory, 13, 0);
    put_range(&memory, 0, 8, 16, 1);
    let request = parse_chain(&memory, &usual(16, 0)).unwrap();
    assert!(matches!(request.operation, Operation::WriteZeroes(_)));
    put_range(&memory, 0, 8, 16, 2);
    let request = parse_chain(&memory, &usual(16, 0)).unwrap();
    assert_eq!(request.operation, Operation::Refused(Status::Unsupported));
}

proptest! {
    /// Whatever a guest puts in its tables: an error or a request whose every byte lies in
    /// memory, never a panic, never an endless walk.
    #[test]
    fn any_bytes_parse_to_an_error_or_to_a_request_inside_memory(
        table in proptest::collection::vec(
            (0u64..0x1_4000, 0u32..0x3000, 0u16..8, 0u16..20), usize::from(COUNT)),
        header in any::<[u8; 16]>(),
        kind in 0u32..16,
        noise in proptest::collection::vec(any::<u8>(), 0x400),
        head in 0u16..20,
    ) {
        let memory = memory();
        memory.write_slice(&noise, GuestAddress(INDIRECT_TABLE)).unwrap();
        for at in (0x2000..0x9000).step_by(0x700) {
            memory.write_slice(&header, GuestAddress(at)).unwrap();
            memory.write_obj(kind.to_le(), GuestAddress(at)).unwrap();
        }
        for (index, (address, bytes, flags, next)) in (0u64..).zip(table) {
            let descriptor = descriptor(address & !0xff, bytes, flags, next);
            memory.write_obj(descriptor, GuestAddress(index * 16)).unwrap();
        }
        if let Ok(request) =
            parse(&memory, Table { address: GuestAddress(0), count: COUNT }, head)
        {
            prop_assert!(memory.check_range(request.status, 1));
            let length = to_usize(request.data.bytes());
            for run in request.data.part(0, length) {
                prop_assert!(memory.check_range(run.address, to_usize(run.bytes)));
            }
        }
    }
}
