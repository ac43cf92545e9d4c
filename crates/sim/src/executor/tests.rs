//! The executor: order by seed, a clock that jumps, kills that leave nothing behind, limits that fire.

use super::*;

fn executor(seed: u64, order: Order) -> Rc<Executor> {
    Executor::new(seed, order, Journal::new())
}

fn run_order(seed: u64, order: Order) -> (Vec<u32>, u64) {
    let executor = executor(seed, order);
    let world = executor.world(executor.new_domain(), seed);
    let seen = Rc::new(RefCell::new(Vec::new()));
    for number in 0..8 {
        let (seen, clock) = (seen.clone(), world.clock.clone());
        world.spawn(async move {
            clock.sleep(1000).await;
            seen.borrow_mut().push(number);
        });
    }
    assert_eq!(executor.run(1000, 1_000_000, || seen.borrow().len() == 8), Stop::Done);
    let order = seen.borrow().clone();
    (order, executor.journal.digest())
}

#[test]
fn same_seed_same_order_and_digest_other_seed_other_order() {
    assert_eq!(run_order(1, Order::Seeded), run_order(1, Order::Seeded));
    assert_ne!(run_order(1, Order::Seeded), run_order(2, Order::Seeded));
    assert_eq!(run_order(1, Order::Fifo).0, (0..8).collect::<Vec<_>>());
}

#[test]
fn the_clock_jumps_to_the_next_timer_and_no_further() {
    let executor = executor(1, Order::Seeded);
    let world = executor.world(executor.new_domain(), 1);
    let start = world.now();
    let ends = Rc::new(RefCell::new(Vec::new()));
    for duration in [5_000, 3_000, 7_000] {
        let (ends, world2) = (ends.clone(), world.clone());
        world.spawn(async move {
            world2.clock.sleep(duration).await;
            ends.borrow_mut().push(world2.now().since_ns(start));
        });
    }
    executor.run(1000, 1_000_000, || ends.borrow().len() == 3);
    assert_eq!(*ends.borrow(), [3_000, 5_000, 7_000]);
}

#[test]
fn a_killed_domain_runs_no_further_and_another_one_does() {
    let executor = executor(1, Order::Seeded);
    let (dead, alive) = (executor.new_domain(), executor.new_domain());
    let counts = [Rc::new(Cell::new(0)), Rc::new(Cell::new(0))];
    for (domain, count) in [(dead, &counts[0]), (alive, &counts[1])] {
        let (world, count) = (executor.world(domain, 1), count.clone());
        let clock = world.clock.clone();
        world.spawn(async move {
            loop {
                clock.sleep(10).await;
                count.set(count.get() + 1);
            }
        });
    }
    executor.run(1000, 1_000_000, || counts[0].get() == 3);
    executor.kill(dead);
    executor.spawn(dead, Box::pin(async { panic!("a dead domain spawned a task") }));
    let before = counts[0].get();
    assert_eq!(executor.run(1000, 1_000_000, || counts[1].get() == 20), Stop::Done);
    assert_eq!(counts[0].get(), before);
}

#[test]
fn hangs_of_every_kind_are_told_apart() {
    let stop = |future: fn(World) -> LocalFuture<()>| {
        let executor = executor(1, Order::Seeded);
        let world = executor.world(executor.new_domain(), 1);
        world.spawn(future(world.clone()));
        executor.run(1000, 1_000_000, || false)
    };
    assert_eq!(stop(|_| Box::pin(std::future::pending())), Stop::Deadlock);
    assert_eq!(stop(|world| world.clock.sleep(2_000_000)), Stop::TooLate);
    assert_eq!(
        stop(|_| Box::pin(std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::Pending
        }))),
        Stop::Spinning
    );
}
