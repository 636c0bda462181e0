//! An input, read as decisions.

/// Changes to one thing, at most.
const EDITS_MAX: usize = 8;
/// What fields break at: ends of their ranges, and one beyond.
const EDGES: [u64; 12] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 44,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// The decisions that an input makes, one after the other; an input that has come to its end goes
/// on with zeros.
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    /// The whole input.
    pub fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// Whether nothing more is decided.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// A number of 64 bits.
    pub fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Some bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count.min(self.0.len()));
        self.0 = tail;
        head
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(u16::from_le_bytes(self.array())) % end
    }

    /// One chance in `count`; never once the script is over.
    pub fn chance(&mut self, count: u8) -> bool {
        !self.is_over() && self.byte().is_multiple_of(count)
    }

    /// One of these.
    pub fn pick<'b, T>(&mut self, from: &'b [T]) -> &'b T {
        &from[self.below(from.len())]
    }

    /// Changes some of these bytes: fields of any width, a bit, or what stands elsewhere.
    pub fn edit(&mut self, bytes: &mut [u8]) {
        for _ in 0..=self.below(EDITS_MAX) {
            let width = 1 << self.below(4);
            let Some(last) = bytes.len().checked_sub(width) else { continue };
            let aligned = self.below(last + 1) & !(width - 1);
            let field: [u8; 8] = match self.below(5) {
                0 => self.array(),
                1 => self.pick(&EDGES).to_le_bytes(),
                2 => self.pick(&EDGES).to_be_bytes(),
                3 => {
                    let from = self.below(last + 1);
                    let mut field = [0; 8];
                    field[..width].copy_from_slice(&bytes[from..from + width]);
                    field
                }
                _ => {
                    bytes[aligned] ^= 1 << self.below(8);
                    continue;
                }
            };
            bytes[aligned..aligned + width].copy_from_slice(&field[..width]);
        }
    }

    /// Changes some of these bytes, or their number.
    pub fn edit_any(&mut self, bytes: &mut Vec<u8>) {
        match self.below(8) {
            0 => bytes.truncate(self.below(bytes.len() + 1)),
            1 => {
                let at = self.below(bytes.len() + 1);
                let more = self.below(64);
                let more = self.bytes(more);
                bytes.splice(at..at, more.iter().copied());
            }
            _ => {}
        }
        self.edit(bytes);
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let head = self.bytes(N);
        array[..head.len()].copy_from_slice(head);
        array
    }
}
