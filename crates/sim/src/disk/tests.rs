//! A simulated disk keeps exactly the promises of the seam: what must survive does, what may be lost can be.

use super::*;
use crate::executor::{Order, Stop};
use crate::rng::Chance;
use bytes::Bytes;
use std::future::Future;
use world::{File, Kind};

struct Bench {
    executor: Rc<Executor>,
    disk: SimDisk,
    domain: Domain,
}

impl Bench {
    fn new(seed: u64, options: DiskOptions) -> Self {
        let executor = Executor::new(seed, Order::Seeded, Journal::new());
        let disk = SimDisk::new(executor.clone(), seed, options);
        let domain = executor.new_domain();
        Bench { executor, disk, domain }
    }

    fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let slot = Rc::new(RefCell::new(None));
        let target = slot.clone();
        self.executor.spawn(self.domain, Box::pin(async move { *target.borrow_mut() = Some(future.await) }));
        assert_eq!(self.executor.run(100_000, 1 << 40, || slot.borrow().is_some()), Stop::Done);
        let value = slot.borrow_mut().take();
        value.expect("the executor stopped because it is there")
    }

    fn file(&self, name: &'static str) -> Rc<dyn File> {
        let disk = self.disk.mount(self.domain);
        self.run(async move {
            match disk.create(name).await {
                Ok(file) => file,
                Err(_) => disk.open(name).await.expect("it exists"),
            }
        })
    }

    fn write(&self, file: &Rc<dyn File>, offset: u64, fill: u8, len: usize) -> world::Result<()> {
        self.run(file.write(offset, &[Bytes::from(vec![fill; len])]))
    }

    fn read(&self, file: &Rc<dyn File>, offset: u64, len: usize) -> Vec<u8> {
        self.run(file.read(offset, len)).expect("no read fault is set").to_vec()
    }

    fn crash(&mut self, crash: Crash) {
        self.executor.kill(self.domain);
        self.disk.crash(crash, InFlight::Chance);
        self.domain = self.executor.new_domain();
    }
}

#[test]
fn reads_see_writes_and_holes_are_zeros() {
    let bench = Bench::new(1, DiskOptions::default());
    let file = bench.file("a");
    bench.write(&file, 5000, 7, 3000).expect("room");
    assert_eq!(bench.read(&file, 4990, 20), [vec![0; 10], vec![7; 10]].concat());
    assert_eq!(bench.read(&file, 7990, 20), [vec![7; 10], vec![0; 10]].concat());
    assert_eq!((file.size_bytes(), bench.run(file.data_ranges()).expect("no fault")), (8000, vec![(4096, 8000)]));
    bench.run(file.punch(4096, 4096)).expect("supported");
    assert_eq!(bench.read(&file, 0, 8000), vec![0; 8000]);
    assert_eq!(bench.disk.allocated_bytes(), 0);
}

#[test]
fn a_kill_keeps_what_was_written_and_power_loss_only_what_was_synced() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..40 {
        let mut bench = Bench::new(seed, DiskOptions::default());
        let file = bench.file("a");
        bench.write(&file, 0, 1, 4096).expect("room");
        bench.run(file.sync()).expect("no fault");
        bench.write(&file, 0, 2, 4096).expect("room");
        bench.write(&file, 4096, 3, 4096).expect("room");
        bench.crash(Crash::Kill);
        let file = bench.file("a");
        assert_eq!(bench.read(&file, 0, 8192), [vec![2; 4096], vec![3; 4096]].concat());
        bench.crash(Crash::PowerLoss(Survival::Sectors));
        let file = bench.file("a");
        let bytes = bench.read(&file, 0, 8192);
        assert!(bytes[..4096].iter().all(|b| [1, 2].contains(b)) && bytes[4096..].iter().all(|b| [0, 3].contains(b)));
        outcomes.insert((bytes[0], bytes[600], bytes[4096], file.size_bytes()));
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|b| *b == sector[0])), "a sector was torn");
    }
    assert!(outcomes.len() > 8, "power loss knows only {outcomes:?}");
}

#[test]
fn the_extremes_of_power_loss() {
    for (survival, expect) in [(Survival::Nothing, 1), (Survival::Everything, 2)] {
        let mut bench = Bench::new(3, DiskOptions::default());
        let file = bench.file("a");
        bench.write(&file, 0, 1, 512).expect("room");
        bench.run(file.sync()).expect("no fault");
        bench.write(&file, 0, 2, 512).expect("room");
        bench.crash(Crash::PowerLoss(survival));
        assert_eq!(bench.read(&bench.file("a"), 0, 1), [expect]);
    }
}

#[test]
fn a_failed_sync_forgets_and_the_next_one_proves_nothing() {
    let mut lost = 0;
    for seed in 0..20 {
        let mut bench = Bench::new(seed, DiskOptions::default());
        let file = bench.file("a");
        bench.write(&file, 0, 9, 4096).expect("room");
        bench.disk.set_faults(FaultPlan { sync_error: Chance::percent(100), ..FaultPlan::none() });
        assert_eq!(bench.run(file.sync()).expect_err("the plan says so").kind, Kind::Io);
        bench.disk.set_faults(FaultPlan::none());
        bench.run(file.sync()).expect("Linux says yes the second time");
        bench.crash(Crash::PowerLoss(Survival::Everything));
        lost += u32::from(bench.read(&bench.file("a"), 0, 1) == [0]);
    }
    assert!((1..20).contains(&lost), "{lost} of 20 were lost");
}

#[test]
fn a_full_disk_refuses_and_takes_again_after_space_was_freed() {
    let bench = Bench::new(1, DiskOptions { capacity_bytes: 3 * PAGE, ..DiskOptions::default() });
    let (a, b) = (bench.file("a"), bench.file("b"));
    bench.write(&a, 0, 1, 8192).expect("room");
    bench.run(b.allocate(0, 4096)).expect("room");
    assert_eq!(bench.write(&a, 8192, 1, 1).expect_err("full").kind, Kind::Full);
    bench.write(&b, 0, 1, 4096).expect("it was allocated");
    bench.write(&a, 0, 2, 8192).expect("overwriting takes no space");
    let disk = bench.disk.mount(bench.domain);
    bench.run(async move { disk.remove("b").await }).expect("it is there");
    assert_eq!(bench.write(&a, 8192, 1, 1).expect_err("the handle keeps the space").kind, Kind::Full);
    drop(b);
    bench.write(&a, 8192, 1, 1).expect("room again");
}

#[test]
fn lost_and_misdirected_writes_and_rot_are_acknowledged_and_wrong() {
    for (fault, elsewhere) in [(Fault::Lost, 0), (Fault::Misdirected, 1)] {
        let bench = Bench::new(5, DiskOptions::default());
        let file = bench.file("a");
        bench.write(&file, 0, 1, 4096).expect("room");
        bench.run(file.sync()).expect("no fault");
        let number = bench.disk.operations();
        bench.disk.set_faults(FaultPlan { at: BTreeMap::from([(number, fault)]), ..FaultPlan::none() });
        bench.write(&file, 8192, 2, 4096).expect("it lies");
        bench.run(file.sync()).expect("it lies");
        assert_eq!(bench.read(&file, 8192, 1), [0]);
        let twos = bench.read(&file, 0, 16384).iter().filter(|b| **b == 2).count();
        assert_eq!(twos, elsewhere * 4096);
        assert_eq!(bench.disk.damage().corruptions, 1);
    }
    let bench = Bench::new(5, DiskOptions::default());
    let file = bench.file("a");
    bench.write(&file, 0, 0, 4096).expect("room");
    bench.disk.rot();
    assert_eq!(bench.read(&file, 0, 4096).iter().map(|b| b.count_ones()).sum::<u32>(), 1);
}

#[test]
fn a_crash_point_leaves_its_operation_and_later_ones_unfinished() {
    let mut seen = BTreeSet::new();
    for seed in 0..30 {
        let mut bench = Bench::new(seed, DiskOptions::default());
        let file = bench.file("a");
        bench.disk.crash_at(Some(bench.disk.operations() + 1));
        let disk = bench.disk.clone();
        bench.executor.spawn(
            bench.domain,
            Box::pin(async move {
                for index in 0..4 {
                    file.write(index * 4096, &[Bytes::from(vec![1; 4096])]).await.expect("room");
                }
            }),
        );
        assert_eq!(bench.executor.run(1000, 1 << 40, || disk.crash_reached()), Stop::Done);
        bench.crash(Crash::Kill);
        let bytes = bench.read(&bench.file("a"), 0, 16384);
        assert_eq!((bytes[0], &bytes[8192..]), (1, &[0; 8192][..]));
        seen.insert(bytes[4096..8192].iter().filter(|b| **b == 1).count());
    }
    assert!(seen.len() > 2, "the write at the crash point always ended as {seen:?}");
}

#[test]
#[should_panic(expected = "overlap")]
fn overlapping_writes_under_way_are_the_engines_error() {
    let bench = Bench::new(1, DiskOptions { instant_percent: 0, ..DiskOptions::default() });
    let file = bench.file("a");
    let _first = file.write(0, &[Bytes::from_static(b"abc")]);
    let _second = file.write(2, &[Bytes::from_static(b"abc")]);
}
