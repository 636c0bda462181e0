//! Requests that find the store full: they wait, and go on by themselves.
//!
//! What waits holds none of the memory that all disks share, and of its own disk's only what the
//! request itself takes; so a ring goes on taking reads and flushes, other disks notice nothing, and
//! nobody can have much wait. A ring that stops takes what waits along: a front
//! end that is gone leaves it marked in the in-flight region; one that stops its queue expects an
//! answer to everything, which is an error then.

use std::pin::pin;

use super::{Phase, Ring, UnderWay};
use crate::disk::BlockDisk;
use crate::execute::{Outcome, Progress, execute, refuse};
use crate::guest::Memory;
use crate::reactor;
use crate::request::Request;
use crate::waiting::{Place, WaitingLine};

impl<D: BlockDisk> UnderWay<D> {
    /// Carries a request out; as often as it takes, where the store is full and that is to be
    /// waited for.
    pub(super) async fn carry_out(&self, memory: &Memory, request: &Request) -> Outcome {
        let ring = &self.ring;
        let (mut progress, mut place) = (Progress::default(), None);
        loop {
            let done = execute(&ring.disk, memory, request, &ring.policy, &mut progress).await;
            let error = match done {
                Ok(outcome) => return outcome,
                Err(error) => error,
            };
            let Some(line) = &ring.waiting else { return refuse(&error, request) };
            // Boxed: rare, and no request should carry its state along.
            if !Box::pin(self.wait_for_room(line, &mut place)).await {
                return refuse(&error, request);
            }
        }
    }

    /// Waits until it is time to try again; `false` where the ring stops.
    async fn wait_for_room(&self, line: &WaitingLine, place: &mut Option<Place>) -> bool {
        let ring = &self.ring;
        let data_bytes = self.claim.bytes - self.claim.own_bytes;
        ring.ease(&mut ring.lock(), data_bytes);
        ring.buffers.give_back(self.claim.bytes);
        let place = place.get_or_insert_with(|| line.join());
        let goes_on = async {
            place.turn(&ring.disk).await;
            ring.buffers.turn().await;
            true
        };
        let stops = async {
            ring.stopped().await;
            false
        };
        let goes_on = reactor::either(stops, goes_on).await;
        ring.lock().bytes_under_way += data_bytes;
        ring.buffers.take(self.claim.bytes);
        ring.buffers.pass_on();
        goes_on
    }
}

impl<D: BlockDisk> Ring<D> {
    /// Returns when the ring is to answer what was taken and take nothing more, or neither.
    async fn stopped(&self) {
        loop {
            let mut stopping = pin!(self.stopping.notified());
            stopping.as_mut().enable();
            if self.lock().phase != Phase::Serving {
                return;
            }
            stopping.await;
        }
    }
}
