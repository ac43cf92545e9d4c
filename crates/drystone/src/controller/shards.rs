//! The shards on their workers: closures go there, answers come back.

use control::{Error, Kind, Result};
use metal::{WorkerContext, Workers};
use node::Shard;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use world::LocalFuture;

thread_local! {
    /// The shards that live on this thread.
    static HERE: RefCell<BTreeMap<u16, Rc<Shard>>> = const { RefCell::new(BTreeMap::new()) };
}

#[derive(Clone)]
pub struct Shards {
    pub workers: Workers,
    pub count: u16,
}

/// To be called on a worker.
pub fn here(shard: u16) -> Option<Rc<Shard>> {
    HERE.with_borrow(|shards| shards.get(&shard).cloned())
}

pub fn put_here(shard: Rc<Shard>) {
    HERE.with_borrow_mut(|shards| shards.insert(shard.number, shard));
}

impl Shards {
    pub fn worker_of(&self, shard: u16) -> usize {
        usize::from(shard) % self.workers.count()
    }

    pub fn numbers(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.count
    }

    /// Runs `work` on the shard's worker and waits for what it returns.
    pub async fn on<T: Send + 'static>(
        &self,
        shard: u16,
        work: impl FnOnce(Rc<Shard>) -> LocalFuture<Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.on_worker(shard, move |_| match here(shard) {
            Some(shard) => work(shard),
            None => Box::pin(async { Err(unavailable()) }),
        })
        .await
    }

    /// The same before the shard is there.
    pub async fn on_worker<T: Send + 'static>(
        &self,
        shard: u16,
        work: impl FnOnce(WorkerContext) -> LocalFuture<Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let job = Box::new(move |context: WorkerContext| -> LocalFuture<()> {
            let work = work(context);
            Box::pin(async move {
                // The asker may have gone; what was begun takes effect all the same.
                let _ = answer.send(work.await);
            })
        });
        self.workers.run(self.worker_of(shard), job).map_err(|_| unavailable())?;
        answered.await.map_err(|_| unavailable())?
    }
}

fn unavailable() -> Error {
    Error::new(Kind::Unavailable, "the controller is starting or shutting down; try again later")
}
