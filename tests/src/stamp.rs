//! Sectors that say who wrote them, and dice that anybody can have again.

/// What a sector holds.
pub const SECTOR_BYTES: usize = 512;

/// Numbers that anybody can have again.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A sector as write number `number` leaves it: recognised as a whole or not at all.
///
/// # Panics
/// Never: a sector has few pieces.
pub fn stamp(sector: u64, number: u64) -> [u8; SECTOR_BYTES] {
    let mut bytes = [0; SECTOR_BYTES];
    for (index, chunk) in bytes.chunks_mut(16).enumerate() {
        let index = u64::try_from(index).expect("few pieces");
        chunk[..8].copy_from_slice(&number.to_le_bytes());
        chunk[8..]
            .copy_from_slice(&(sector.wrapping_mul(0x9e37_79b9) ^ index ^ number).to_le_bytes());
    }
    bytes
}

/// Which write left a sector like this; 0 where none has. `None`: no write did.
pub fn writer_of(sector: u64, bytes: &[u8]) -> Option<u64> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(0);
    }
    let number = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    (bytes == stamp(sector, number)).then_some(number)
}

/// The same of each sector of a disk; the first that no write left like this.
///
/// # Errors
/// That sector.
pub fn writers_of(disk: &[u8]) -> Result<Vec<u64>, u64> {
    let sectors = (0..).zip(disk.chunks(SECTOR_BYTES));
    sectors.map(|(sector, bytes)| writer_of(sector, bytes).ok_or(sector)).collect()
}
