//! The vDisk as a block device: requests in, replies out, each one measured.

use crate::copy::Extents;
use crate::lifecycle::gone;
use crate::log::Combine;
use crate::stats::OperationKind;
use crate::vdisk::{Health, Vdisk};
use crate::write::{TRANSFER_BYTES_MAX, acknowledged, all_acknowledged};
use crate::{Error, Kind, Result};
use base::units::BLOCK;
use block::{BlockDevice, Geometry, Lent, Reply, Request};
use std::future::Future;
use std::rc::Rc;
use world::Completion;

/// Prefetching reads this much at a time.
const PREFETCH_CHUNK: u64 = 1 << 20;

/// A handle for front-ends.
#[derive(Clone)]
pub struct Device(pub Rc<Vdisk>);

impl Vdisk {
    pub fn device(self: &Rc<Self>) -> Rc<dyn BlockDevice> {
        Rc::new(Device(self.clone()))
    }

    pub(crate) fn pending<T: 'static>(
        self: &Rc<Self>,
        kind: OperationKind,
        bytes: u64,
        work: impl Future<Output = Result<T>> + 'static,
    ) -> Completion<block::Result<T>> {
        let this = self.clone();
        let started = self.context.world.now();
        let in_flight = InFlight::new(this.clone());
        Completion::pending(async move {
            let result = work.await;
            drop(in_flight);
            let ns = this.context.world.now().since_ns(started);
            this.stats.record(kind, bytes, ns, result.is_ok());
            result.map_err(|error| this.told(error))
        })
    }

    fn refused<T>(&self, kind: OperationKind, error: Error) -> Completion<block::Result<T>> {
        self.stats.record(kind, 0, 0, false);
        Completion::Ready(Err(self.told(error)))
    }

    /// Of a vDisk that was deleted the groups go under whoever still asks for it: what is missing then is no damage.
    fn told(&self, error: Error) -> block::Error {
        match error.kind {
            Kind::Corrupt | Kind::Io if self.is_deleted() => gone().into(),
            _ => error.into(),
        }
    }

    fn submit_read(self: &Rc<Self>, offset: u64, len: u32) -> Completion<block::Result<Reply>> {
        let started = self.context.world.now();
        match self.read_now(offset, len) {
            Ok(Some(segments)) => {
                let ns = self.context.world.now().since_ns(started);
                self.stats.record(OperationKind::Read, len.into(), ns, true);
                Completion::Ready(Ok(Reply::Data(segments)))
            }
            Ok(None) => {
                let this = self.clone();
                self.pending(
                    OperationKind::Read,
                    len.into(),
                    async move { Ok(Reply::Data(this.read(offset, len).await?)) },
                )
            }
            Err(error) => self.refused(OperationKind::Read, error),
        }
    }

    fn submit_write(self: &Rc<Self>, offset: u64, data: bytes::Bytes, fua: bool) -> Completion<block::Result<Reply>> {
        let bytes = data.len() as u64;
        if data.is_empty() {
            return Completion::Ready(self.check_range(offset, 0).map(|()| Reply::Done).map_err(block::Error::from));
        }
        self.queued(OperationKind::Write, bytes, fua, self.queue_write(offset, data).map(acknowledged))
    }

    fn submit_combined(
        self: &Rc<Self>,
        kind: OperationKind,
        offset: u64,
        data: bytes::Bytes,
        how: Combine,
        fua: bool,
    ) -> Completion<block::Result<Reply>> {
        let bytes = data.len() as u64;
        if data.is_empty() {
            return Completion::Ready(self.check_range(offset, 0).map(|()| Reply::Done).map_err(block::Error::from));
        }
        self.queued(kind, bytes, fua, self.queue_combined(offset, data, how).map(acknowledged))
    }

    /// What was put into the log task's queue already: the order is that of submission, and it takes effect whether or not
    /// anybody waits for it.
    fn queued(
        self: &Rc<Self>,
        kind: OperationKind,
        bytes: u64,
        fua: bool,
        queued: Result<impl Future<Output = Result<()>> + 'static>,
    ) -> Completion<block::Result<Reply>> {
        match queued {
            Ok(acknowledged) => {
                let this = self.clone();
                self.pending(kind, bytes, async move {
                    acknowledged.await?;
                    this.done(fua).await
                })
            }
            Err(error) => self.refused(kind, error),
        }
    }

    async fn done(self: &Rc<Self>, fua: bool) -> Result<Reply> {
        if fua {
            self.flush().await?;
        }
        Ok(Reply::Done)
    }

    async fn prefetch(self: &Rc<Self>, offset: u64, len: u64) -> Result<Reply> {
        self.check_range(offset, len)?;
        let mut at = offset;
        while at < offset + len {
            let now = PREFETCH_CHUNK.min(offset + len - at);
            self.read(at, now as u32).await?;
            at += now;
        }
        Ok(Reply::Done)
    }
}

/// Counts a request until it is answered or its front-end gives it up.
struct InFlight(Rc<Vdisk>);

impl InFlight {
    fn new(vdisk: Rc<Vdisk>) -> InFlight {
        vdisk.stats.in_flight.set(vdisk.stats.in_flight.get() + 1);
        InFlight(vdisk)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.stats.in_flight.set(self.0.stats.in_flight.get() - 1);
    }
}

impl BlockDevice for Device {
    fn geometry(&self) -> Geometry {
        let attributes = self.0.attributes();
        let read_only = attributes.read_only || !matches!(self.0.health(), Health::Online);
        Geometry {
            size_bytes: attributes.size_bytes,
            sector_bytes: attributes.sector_bytes,
            preferred_bytes: BLOCK as u32,
            transfer_bytes_max: TRANSFER_BYTES_MAX,
            atomic_bytes_max: self.0.atomic_bytes_max(),
            read_only,
        }
    }

    fn submit(&self, request: Request) -> Completion<block::Result<Reply>> {
        let this = self.0.clone();
        let vdisk = &self.0;
        match request {
            Request::Read { offset, len } => vdisk.submit_read(offset, len),
            Request::Write { offset, data, fua } => vdisk.submit_write(offset, data, fua),
            Request::CompareAndWrite { offset, expected, data, fua } => {
                let how = Combine::IfEqual(expected);
                vdisk.submit_combined(OperationKind::CompareAndWrite, offset, data, how, fua)
            }
            Request::OrWrite { offset, data, fua } => {
                vdisk.submit_combined(OperationKind::OrWrite, offset, data, Combine::Or, fua)
            }
            Request::Flush => vdisk.pending(OperationKind::Flush, 0, async move { this.done(true).await }),
            Request::Trim { offset, len, fua } => {
                let queued = vdisk.queue_trim(offset, len).map(all_acknowledged);
                vdisk.queued(OperationKind::Trim, len, fua, queued)
            }
            Request::WriteZeroes { offset, len, how, fua } => {
                let queued = vdisk.queue_zeroes(offset, len, how).map(all_acknowledged);
                vdisk.queued(OperationKind::WriteZeroes, len, fua, queued)
            }
            Request::Prefetch { offset, len } => {
                vdisk.pending(OperationKind::Prefetch, len, async move { this.prefetch(offset, len).await })
            }
            Request::BlockStatus { offset, len, extents_max } => {
                vdisk.pending(OperationKind::BlockStatus, 0, async move {
                    Ok(Reply::Status(this.block_status(offset, len, extents_max).await?))
                })
            }
        }
    }

    fn lend(&self, offset: u64, len: u32) -> Completion<block::Result<Lent>> {
        let this = self.0.clone();
        self.0.pending(OperationKind::Lend, len.into(), async move { Ok(Lent(Rc::new(this.lend(offset, len).await?))) })
    }

    fn take(&self, offset: u64, lent: Lent) -> Completion<block::Result<()>> {
        let lent = lent.0.downcast::<Extents>().ok();
        let bytes = lent.as_ref().map_or(0, |lent| lent.len_bytes());
        match self.0.queue_take(offset, lent) {
            Ok(queued) => self.0.pending(OperationKind::Take, bytes, acknowledged(queued)),
            Err(error) => self.0.refused(OperationKind::Take, error),
        }
    }
}
