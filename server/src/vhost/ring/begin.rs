//! What a ring begins with: nothing, or what a dead server left.

use std::sync::Arc;

use virtio_queue::{Queue, QueueT};

use bough_blockstore::to_usize;

use super::{Layout, Past, Phase, State};
use crate::guest::Memory;
use crate::vhost::VhostError;

/// Checks a layout against memory and makes a ring's state of it, with what is unanswered.
pub(super) fn prepare(
    layout: &Layout,
    memory: Arc<Memory>,
    past: &Past,
) -> Result<(State, Vec<u16>, u16), VhostError> {
    let bad = || VhostError::BadRing { queue: usize::from(layout.index) };
    let mut queue = make_queue(layout).map_err(|_| bad())?;
    if !queue.is_valid(&*memory) {
        return Err(bad());
    }
    let used = queue.used_idx(&*memory, std::sync::atomic::Ordering::Acquire);
    let used = used.map_err(|_| bad())?.0;
    queue.set_next_used(used);
    if past.ahead.is_none() {
        past.region.clear(past.part);
    }
    let mut log = past.region.queue(past.part, layout.size, used)?;
    let unanswered = log.recover(used);
    let taken = u16::try_from(unanswered.len()).unwrap_or(u16::MAX);
    let ahead = past.ahead.unwrap_or(layout.base.wrapping_sub(used));
    queue.set_next_avail(used.wrapping_add(taken).wrapping_add(ahead));
    if let Some(head) = unanswered.iter().find(|head| **head >= layout.size) {
        let (queue, head, size) = (layout.index, *head, layout.size);
        return Err(VhostError::InflightHead { queue, head, size });
    }
    let state = State {
        phase: Phase::Serving,
        queue,
        memory,
        log,
        taken: vec![false; to_usize(u64::from(layout.size))],
        under_way: 0,
        bytes_under_way: 0,
        call: None,
        error: None,
        signal_due: false,
        kick_wanted: true,
    };
    Ok((state, unanswered, ahead))
}

fn make_queue(layout: &Layout) -> Result<Queue, virtio_queue::Error> {
    let mut queue = Queue::new(layout.size)?;
    queue.try_set_size(layout.size)?;
    queue.try_set_desc_table_address(layout.descriptors)?;
    queue.try_set_avail_ring_address(layout.available)?;
    queue.try_set_used_ring_address(layout.used)?;
    queue.set_event_idx(layout.event_index);
    queue.set_ready(true);
    Ok(queue)
}
