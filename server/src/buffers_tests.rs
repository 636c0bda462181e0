//! Rings that wait for memory take turns.

use std::task::{Context, Waker};

use crate::buffers::Buffers;

#[test]
fn who_finds_no_room_is_woken_when_there_is_some() {
    let buffers = Buffers::new(100);
    let mut context = Context::from_waker(Waker::noop());
    buffers.take(60);
    assert!(buffers.has_room());
    buffers.take(60);
    assert!(!buffers.has_room());
    let mut turn = Box::pin(buffers.turn());
    assert!(turn.as_mut().poll(&mut context).is_pending());
    buffers.give_back(60);
    assert!(!buffers.has_room(), "it is somebody's turn");
    assert!(turn.as_mut().poll(&mut context).is_ready());
    drop(turn);
    assert!(buffers.has_room());
}

#[test]
fn whoever_waits_gets_its_turn_before_anybody_gets_a_second_one() {
    let buffers = Buffers::new(1);
    let mut context = Context::from_waker(Waker::noop());
    buffers.take(1);
    let mut queue: std::collections::VecDeque<_> =
        (0..3).map(|ring| (ring, Box::pin(buffers.turn()))).collect();
    queue.iter_mut().for_each(|(_, turn)| assert!(turn.as_mut().poll(&mut context).is_pending()));
    let mut served = Vec::new();
    for _ in 0..9 {
        buffers.give_back(1);
        // Whoever is asked first: the turn is not theirs.
        let ready =
            queue.iter_mut().position(|(_, turn)| turn.as_mut().poll(&mut context).is_ready());
        let (ring, _) = queue.remove(ready.expect("somebody's turn")).expect("it is there");
        assert!(buffers.is_free());
        buffers.take(1);
        buffers.pass_on();
        served.push(ring);
        let mut again = Box::pin(buffers.turn());
        assert!(again.as_mut().poll(&mut context).is_pending());
        queue.push_front((ring, again));
    }
    assert_eq!(served, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_turn_that_is_not_waited_for_any_more_is_the_next_ones() {
    let buffers = Buffers::new(1);
    let mut context = Context::from_waker(Waker::noop());
    buffers.take(1);
    let (mut gone, mut next) = (Box::pin(buffers.turn()), Box::pin(buffers.turn()));
    assert!(gone.as_mut().poll(&mut context).is_pending());
    assert!(next.as_mut().poll(&mut context).is_pending());
    buffers.give_back(1);
    drop(gone);
    assert!(next.as_mut().poll(&mut context).is_ready());
}

#[test]
fn one_request_larger_than_all_the_room_is_taken_alone() {
    let buffers = Buffers::new(0);
    assert!(buffers.has_room());
    buffers.take(1);
    assert!(!buffers.has_room());
    buffers.give_back(1);
    assert!(buffers.has_room());
}
