//! What the chain promises, kept on a simulated device.

mod crash;
mod faults;
mod history;
mod kit;
mod order;
