//! What a copy that another logical unit carries out does here: each of its requests is a task of this task set, so that task
//! management finds it, and is kept out by all that would keep out a command that the initiator sent here itself.

#[cfg(test)]
mod tests;

use crate::Attribute;
use crate::call::UnderWay;
use crate::path::PathId;
use crate::reservation::initiator_name;
use crate::task_set::TaskKey;
use crate::unit::LogicalUnit;
use block::{BlockDevice, Error, Geometry, Kind, Lent, Reply, Request, Result};
use std::cell::Cell;
use std::rc::Rc;
use world::Completion;
use world::local::oneshot;

/// A logical unit as such a copy has it. Dropping it ends the visit; what is under way goes on.
pub struct Visit {
    unit: Rc<LogicalUnit>,
    visitor: Rc<Visitor>,
}

/// Whose visit it is, as the logical unit knows it.
pub(crate) struct Visitor {
    pub id: PathId,
    /// The name of the initiator port for which the copy is.
    pub port: Rc<str>,
    /// Task management has named it: none of its requests is carried out any more, as the initiator was told that they ended.
    pub stopped: Cell<bool>,
}

impl Visitor {
    /// Through which port the initiator reaches this logical unit is not known: what concerns one concerns the copy.
    pub(crate) fn is_for(&self, port: &str) -> bool {
        initiator_name(&self.port) == initiator_name(port)
    }
}

impl LogicalUnit {
    /// Lets in a copy that another logical unit carries out for this initiator port (named as in [`crate::Target::nexus`]).
    pub fn visit(self: &Rc<Self>, initiator_port: &str) -> Visit {
        let visitor = self.let_in(initiator_port);
        Visit { unit: self.clone(), visitor }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.unit.let_out(self.visitor.id);
    }
}

impl BlockDevice for Visit {
    fn geometry(&self) -> Geometry {
        self.unit.device.geometry()
    }

    fn submit(&self, request: Request) -> Completion<Result<Reply>> {
        let writes = !matches!(request, Request::Read { .. });
        self.begin(writes, |device| device.submit(request))
    }

    fn lend(&self, offset: u64, len: u32) -> Completion<Result<Lent>> {
        self.begin(false, move |device| device.lend(offset, len))
    }

    fn take(&self, offset: u64, lent: Lent) -> Completion<Result<()>> {
        self.begin(true, move |device| device.take(offset, lent))
    }
}

impl Visit {
    fn begin<T: 'static>(
        &self,
        writes: bool,
        begin: impl FnOnce(&dyn BlockDevice) -> Completion<Result<T>> + 'static,
    ) -> Completion<Result<T>> {
        let entered = self.unit.tasks.borrow_mut().enter(self.visitor.id, 0, Attribute::Simple);
        let Some(key) = entered else {
            return Completion::Ready(Err(Error::new(Kind::Unavailable, "the task set is full")));
        };
        let stay = Stay { unit: self.unit.clone(), visitor: self.visitor.clone(), key };
        let may_go = self.unit.tasks.borrow().may_visit(key);
        if may_go {
            return stay.carry_out(writes, begin);
        }
        // Taken all the same: it does not depend on whether anybody waits for it.
        let (answer, answered) = oneshot();
        self.unit.host.spawn(Box::pin(async move {
            stay.turn().await;
            answer.send(stay.carry_out(writes, begin).await);
        }));
        Completion::pending(async move { answered.await.unwrap_or_else(|| Err(stopped())) })
    }
}

fn stopped() -> Error {
    Error::new(Kind::Unavailable, "task management has ended the copy")
}

/// A request in the task set.
struct Stay {
    unit: Rc<LogicalUnit>,
    visitor: Rc<Visitor>,
    key: TaskKey,
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.unit.tasks.borrow_mut().leave(self.key);
        self.unit.tasks_changed.notify();
    }
}

impl Stay {
    async fn turn(&self) {
        while !self.visitor.stopped.get() && !self.unit.tasks.borrow().may_visit(self.key) {
            self.unit.tasks_changed.notified().await;
        }
    }

    fn carry_out<T: 'static>(
        self,
        writes: bool,
        begin: impl FnOnce(&dyn BlockDevice) -> Completion<Result<T>>,
    ) -> Completion<Result<T>> {
        if self.visitor.stopped.get() {
            return Completion::Ready(Err(stopped()));
        }
        if !self.unit.admits_copy(&self.visitor.port, writes) {
            return Completion::Ready(Err(Error::new(Kind::ReadOnly, "the vDisk is reserved or being sanitized")));
        }
        self.unit.tasks.borrow_mut().runs(self.key);
        match begin(&*self.unit.device) {
            Completion::Ready(result) => Completion::Ready(result),
            pending => {
                let under_way = UnderWay::new(&self.unit, self.key, pending);
                Completion::pending(async move {
                    let result = under_way.await;
                    if self.visitor.stopped.get() { Err(stopped()) } else { result }
                })
            }
        }
    }
}
