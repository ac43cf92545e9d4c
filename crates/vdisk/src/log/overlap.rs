//! Large frames of clients, two of them under way: while the device has one, the next is made ready and handed to it.
//!
//! The second is appended behind the first and names it as its predecessor, but nothing is believed of it before the first
//! has succeeded: map, position and acknowledgements follow the order of the log. If the first fails, both are appended
//! again, in their order, in another group; what the second has left in this one is behind a gap, or behind a frame that
//! the other group's header voids.

use super::Position;
use super::append::Submitted;
use super::batch::Batch;
use super::frame::FrameKind;
use crate::Result;
use crate::vdisk::Vdisk;
use pool::Purpose;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Poll;

/// Header and alignment of a frame of at most [`super::batch`]'s number of runs.
const HEADER_BYTES: u32 = 64 << 10;

/// Frames in a row; then whatever else waits for the log task has its turn.
const FRAMES_MAX: u32 = 32;

struct UnderWay {
    batch: Batch,
    submitted: Submitted,
}

impl Vdisk {
    /// Is the frame worth it?
    pub(super) fn may_overlap(&self, batch: &Batch) -> bool {
        let min = u64::from(self.context.settings.overlap_bytes_min);
        batch.payload_bytes >= min && !batch.clears && !batch.unfinished
    }

    /// Appends the frame, and those that come while it is on its way.
    pub(super) async fn run_overlapping(self: &Rc<Self>, first: Batch) {
        let mut under_way: VecDeque<UnderWay> = VecDeque::new();
        match self.begin_first(&first).await {
            Ok(submitted) => under_way.push_back(UnderWay { batch: first, submitted }),
            Err(_) => return self.append_again([first]).await,
        }
        let mut begun = 1;
        while let Some(mut oldest) = under_way.pop_front() {
            if under_way.is_empty() && begun < FRAMES_MAX {
                let next = self.next_behind(Position::behind(&oldest.submitted.frame)).await;
                begun += u32::from(next.is_some());
                under_way.extend(next);
            }
            let more = under_way.is_empty() && begun < FRAMES_MAX;
            let Some(result) = self.ended_or_more(&mut oldest.submitted, more).await else {
                // More has been queued.
                under_way.push_front(oldest);
                continue;
            };
            let UnderWay { batch, submitted } = oldest;
            if let Err(error) = result {
                tracing::warn!(vdisk = %self.id, %error, "append failed, going on in another group");
                return self.begin_again(batch, under_way).await;
            }
            self.has_appended(&submitted.frame, &batch.pieces);
            self.apply_user(&batch, submitted.frame);
            self.answer(batch, Ok(()));
        }
    }

    async fn begin_first(self: &Rc<Self>, batch: &Batch) -> Result<Submitted> {
        self.make_ready(batch).await?;
        let frame = self.draft(FrameKind::Data, &batch.pieces, None);
        self.open_for(frame.len + base::units::BLOCK as u32, Purpose::Normal).await?;
        let after = self.state.borrow().position;
        Ok(self.submit(frame, &batch.pieces, after, true))
    }

    /// A frame behind the one that ends at `after` and is still under way, if enough waits and nothing else does.
    async fn next_behind(self: &Rc<Self>, after: Position) -> Option<UnderWay> {
        if self.over_unsynced() || self.over_map() || self.pace.holds() || !self.queue.borrow().background.is_empty() {
            return None;
        }
        if self.writable().is_err() || !self.state.borrow().to_rewrite.is_empty() {
            return None;
        }
        let room = {
            let state = self.state.borrow();
            let group = state.open.as_ref().filter(|group| group.takes_another())?;
            group.room().saturating_sub(HEADER_BYTES.min(group.room() / 8))
        };
        let payload_max = u64::from(room.min(self.frame_payload_max()));
        let batch = self.fill_with_blocks(self.context.settings.overlap_bytes_min.into(), payload_max)?;
        match self.begin_next(&batch, after).await {
            Some(submitted) => Some(UnderWay { batch, submitted }),
            None => {
                self.put_back(batch);
                None
            }
        }
    }

    /// Nothing has happened if it cannot be begun.
    async fn begin_next(self: &Rc<Self>, batch: &Batch, after: Position) -> Option<Submitted> {
        for piece in &batch.pieces {
            self.prepare(piece).await.ok()?;
        }
        let frame = self.draft(FrameKind::Data, &batch.pieces, None);
        let reserved = {
            let mut state = self.state.borrow_mut();
            let group = state.open.as_mut().filter(|group| group.takes_another())?;
            let len = frame.len + base::units::BLOCK as u32;
            if len > group.room() {
                return None;
            }
            group.reserve(len, Purpose::Normal)
        };
        reserved.await.ok()?;
        let takes = self.state.borrow().open.as_ref().is_some_and(|group| group.takes_another());
        takes.then(|| self.submit(frame, &batch.pieces, after, true))
    }

    /// The frame's end; or, if `more` may be begun, `None` as soon as something is queued.
    async fn ended_or_more(&self, submitted: &mut Submitted, more: bool) -> Option<pool::Result<()>> {
        let mut queued = std::pin::pin!(self.queued.notified());
        std::future::poll_fn(|context| {
            if let Poll::Ready(result) = std::pin::Pin::new(&mut submitted.completion).poll(context) {
                return Poll::Ready(Some(result));
            }
            if more && queued.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    /// The group takes nothing more: all of them in another one.
    async fn begin_again(self: &Rc<Self>, failed: Batch, under_way: VecDeque<UnderWay>) {
        let mut batches = vec![failed];
        for UnderWay { batch, submitted } in under_way {
            // Whatever became of it, nothing has been made of it.
            let _ = submitted.completion.await;
            batches.push(batch);
        }
        self.abandon_open_group();
        self.append_again(batches).await;
    }

    async fn append_again(self: &Rc<Self>, batches: impl IntoIterator<Item = Batch>) {
        for batch in batches {
            let result = self.append_user_with_room(&batch).await;
            self.answer(batch, result);
        }
    }
}
