//! A command under way, as its handler sees it, and what a handler returns.

use crate::cdb::Cdb;
use crate::fault::{self, Fault};
use crate::path::Path;
use crate::task_set::TaskKey;
use crate::unit::LogicalUnit;
use crate::{Response, Status};
use block::{BlockDevice, Reply, Request, Segment};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use world::Completion;

/// Cheap to clone: a handler that has to wait takes its own.
#[derive(Clone)]
pub(crate) struct Call {
    pub unit: Rc<LogicalUnit>,
    pub path: Rc<Path>,
    pub cdb: Cdb,
    /// Bytes of data-out that the initiator has.
    pub offered: u32,
    pub key: TaskKey,
}

/// A command that succeeded.
#[derive(Debug)]
pub(crate) struct Good {
    pub status: Status,
    pub data: Vec<Segment>,
}

pub(crate) type Ran = Result<Good, Fault>;

impl Good {
    pub(crate) const NOTHING: Good = Good { status: Status::Good, data: Vec::new() };

    /// Data-in cut to the allocation length (SPC-4 4.2.5.6).
    pub(crate) fn bytes(mut bytes: Vec<u8>, allocation_bytes: usize) -> Good {
        bytes.truncate(allocation_bytes);
        let data = if bytes.is_empty() { Vec::new() } else { vec![Segment::Bytes(bytes.into())] };
        Good { status: Status::Good, data }
    }
    pub(crate) fn response(self) -> Response {
        Response { status: self.status, sense: None, data: self.data }
    }
}

pub(crate) fn ready(good: Good) -> Completion<Ran> {
    Completion::Ready(Ok(good))
}
pub(crate) fn failed(fault: impl Into<Fault>) -> Completion<Ran> {
    Completion::Ready(Err(fault.into()))
}

impl Call {
    pub(crate) fn sector_bytes(&self) -> u32 {
        self.unit.geometry().sector_bytes
    }

    /// Whether the task may go on: handlers of several steps ask between them.
    pub(crate) fn proceed(&self) -> Result<(), Fault> {
        if self.unit.tasks.borrow().aborted(self.key).is_some() { Err(Fault::Aborted) } else { Ok(()) }
    }

    /// Waits for something that goes on whether or not the task is aborted.
    pub(crate) async fn until_aborted<T>(&self, something: impl Future<Output = T>) -> Result<T, Fault> {
        let mut something = std::pin::pin!(something);
        let mut changed = std::pin::pin!(None);
        std::future::poll_fn(|context| {
            if let Poll::Ready(value) = something.as_mut().poll(context) {
                return Poll::Ready(Ok(value));
            }
            loop {
                if let Err(fault) = self.proceed() {
                    return Poll::Ready(Err(fault));
                }
                if changed.is_none() {
                    changed.set(Some(self.unit.tasks_changed.notified()));
                }
                let notified = changed.as_mut().as_pin_mut().expect("it was made just now");
                std::task::ready!(notified.poll(context));
                changed.set(None);
            }
        })
        .await
    }

    /// One request of which the command consists, with `good` made of the reply. No allocation if it is answered at once.
    pub(crate) fn submit(
        &self,
        request: Request,
        offset: u64,
        good: impl FnOnce(Reply) -> Good + 'static,
    ) -> Completion<Ran> {
        match self.unit.device.submit(request) {
            Completion::Ready(result) => Completion::Ready(self.judge(result, offset).map(good)),
            pending => {
                let under_way = UnderWay::new(&self.unit, self.key, pending);
                let call = self.clone();
                Completion::pending(async move { call.judge(under_way.await, offset).map(good) })
            }
        }
    }

    /// One of several requests of a command; nothing is submitted for a task that has been aborted.
    pub(crate) async fn request(&self, request: Request, offset: u64) -> Result<Reply, Fault> {
        let result = self.request_of(&*self.unit.device, |device| device.submit(request)).await?;
        self.judge(result, offset)
    }

    /// The same to a device that may be another one.
    pub(crate) async fn request_of<T: 'static>(
        &self,
        device: &dyn BlockDevice,
        begin: impl FnOnce(&dyn BlockDevice) -> Completion<block::Result<T>>,
    ) -> Result<block::Result<T>, Fault> {
        self.proceed()?;
        Ok(match begin(device) {
            Completion::Ready(result) => result,
            pending => UnderWay::new(&self.unit, self.key, pending).await,
        })
    }

    fn judge(&self, result: block::Result<Reply>, offset: u64) -> Result<Reply, Fault> {
        result.map_err(|error| Fault::Check(fault::condition(&error, offset, self.sector_bytes())))
    }
}

/// A request in the device, or something else that cannot be taken back: if whoever waits goes away, it goes on, and the task stays
/// in the task set until it has ended, so that task management does not call something ended that may still write.
pub(crate) struct UnderWay<T: 'static> {
    unit: Rc<LogicalUnit>,
    key: TaskKey,
    /// `None`: answered.
    completion: Option<Completion<T>>,
}

impl<T> UnderWay<T> {
    pub(crate) fn new(unit: &Rc<LogicalUnit>, key: TaskKey, completion: Completion<T>) -> UnderWay<T> {
        unit.tasks.borrow_mut().request_began(key);
        UnderWay { unit: unit.clone(), key, completion: Some(completion) }
    }
}

fn ended(unit: &LogicalUnit, key: TaskKey) {
    if unit.tasks.borrow_mut().request_ended(key) {
        unit.tasks_changed.notify();
    }
}

impl<T> Future for UnderWay<T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let completion = self.completion.as_mut().expect("it is not polled after it ended");
        let result = std::task::ready!(Pin::new(completion).poll(context));
        self.completion = None;
        ended(&self.unit, self.key);
        Poll::Ready(result)
    }
}

impl<T: 'static> Drop for UnderWay<T> {
    fn drop(&mut self) {
        if let Some(completion) = self.completion.take() {
            let (unit, key) = (self.unit.clone(), self.key);
            self.unit.host.spawn(Box::pin(async move {
                // Nobody is left to be told.
                let _unheard = completion.await;
                ended(&unit, key);
            }));
        }
    }
}
