//! Which tasks may run, and what an abort names.

use super::*;
use Attribute::{HeadOfQueue, Ordered, Simple};

const A: PathId = PathId(1);
const B: PathId = PathId(2);

#[test]
fn attributes_keep_their_order() {
    // Which of the tasks, in order of arrival, may run while none of the others has ended.
    let table: [(&[Attribute], &[bool]); 6] = [
        (&[Simple, Simple], &[true, true]),
        (&[Simple, Ordered], &[true, false]),
        (&[Ordered, Simple], &[true, false]),
        (&[Ordered, Ordered, Simple], &[true, false, false]),
        (&[Simple, HeadOfQueue, Simple], &[false, true, false]),
        (&[Ordered, HeadOfQueue, HeadOfQueue], &[false, true, true]),
    ];
    for (attributes, expected) in table {
        let mut set = TaskSet::default();
        let keys: Vec<TaskKey> =
            attributes.iter().enumerate().map(|(at, one)| set.enter(A, at as u64, *one).expect("room")).collect();
        let may: Vec<bool> = keys.iter().map(|key| set.may_run(*key)).collect();
        assert_eq!(may, expected, "{attributes:?}");
        // From the front on, each that ends lets another one go: nothing waits for ever.
        let mut left: Vec<TaskKey> = keys;
        while !left.is_empty() {
            let next = left.iter().position(|key| set.may_run(*key)).expect("one may run");
            set.leave(left.remove(next));
        }
        assert_eq!((set.count, set.ordering), (0, 0));
    }
}

#[test]
fn an_aborted_task_that_does_not_run_holds_nobody_up() {
    let mut set = TaskSet::default();
    let ordered = set.enter(A, 1, Ordered).expect("room");
    let simple = set.enter(A, 2, Simple).expect("room");
    set.abort(|task| (task.key == ordered).then_some(Abort::Silent));
    assert!(set.may_run(simple));
    set.runs(ordered);
    assert!(!set.may_run(simple), "what runs may still write");
}

#[test]
fn a_task_stays_while_a_request_of_it_is_under_way() {
    let mut set = TaskSet::default();
    let key = set.enter(A, 1, Simple).expect("room");
    set.runs(key);
    set.request_began(key);
    set.request_began(key);
    set.leave(key);
    assert!(set.contains(key));
    assert!(!set.request_ended(key));
    assert!(set.contains(key));
    assert!(set.request_ended(key));
    assert!(!set.contains(key));
    let again = set.enter(B, 1, Simple).expect("room");
    assert!(!set.contains(key), "its slot has another task now");
    assert!(!set.request_ended(key));
    assert!(set.contains(again));
}

#[test]
fn an_abort_tells_apart_what_runs() {
    let mut set = TaskSet::default();
    let running = set.enter(A, 1, Simple).expect("room");
    set.runs(running);
    let gathering = set.enter(A, 2, Simple).expect("room");
    let other = set.enter(B, 2, Simple).expect("room");
    let aborted = set.abort(|task| (task.path == A).then_some(Abort::Silent));
    assert_eq!(aborted.running, [running]);
    assert_eq!(aborted.gathering, [(A, 2)]);
    assert_eq!(aborted.paths, [A]);
    assert_eq!(set.aborted(gathering), Some(Abort::Silent));
    assert_eq!(set.aborted(other), None);
    assert_eq!((set.find(A, 2), set.find(B, 2)), (None, Some(other)));
    assert_eq!((set.any_of(A), set.any_of(B)), (false, true));
    // The first abort said how it ends; it is still to be waited for by the second.
    let again = set.abort(|_| Some(Abort::Tell));
    assert_eq!((again.running, again.gathering), (vec![running], vec![(B, 2)]));
    assert_eq!(set.aborted(running), Some(Abort::Silent));
}

#[test]
fn a_full_set_takes_no_more() {
    let mut set = TaskSet::default();
    let keys: Vec<TaskKey> =
        (0..TASKS_PER_NEXUS_MAX).map(|tag| set.enter(A, tag as u64, Simple).expect("room")).collect();
    assert_eq!(set.enter(A, 9999, Simple), None);
    assert!(set.enter(B, 1, Simple).is_some(), "another nexus has its own share");
    set.leave(keys[0]);
    assert!(set.enter(A, 9999, Simple).is_some());
    let mut path = 3;
    while set.count < TASKS_MAX {
        if set.enter(PathId(path), 1, Simple).is_none() {
            path += 1;
        }
    }
    assert_eq!(set.enter(PathId(path + 1), 1, Simple), None);
}

#[test]
fn what_was_given_up_and_runs_goes_before_what_came_later() {
    let mut set = TaskSet::default();
    let older = set.enter(B, 1, Simple).expect("room");
    let write = set.enter(A, 1, Simple).expect("room");
    set.runs(write);
    set.request_began(write);
    set.abort(|task| (task.path == A).then_some(Abort::Silent));
    let newer = set.enter(B, 2, Simple).expect("room");
    assert!(set.may_run(older) && !set.may_run(newer));
    // Its handler is dropped with its session; the device still works on it.
    set.leave(write);
    assert!(!set.may_run(newer));
    assert!(set.request_ended(write) && set.may_run(newer) && set.may_run(older));
    assert_eq!(set.aborted, 0);
}
