//! Damage of every kind, done to a closed store: found for exactly what it is, survived where
//! there is a second copy, never answered with garbage or a panic.

mod catalogue;
mod chain;
mod counts;
mod flips;
mod kit;
mod lies;
mod living;
mod media;
mod repair;
mod trees;
mod whole;
