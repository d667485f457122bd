//! Who is looked at next: each name once, however often it is asked for, and never twice at the same time.

use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::stream::{FuturesUnordered, select};
use futures::{FutureExt, StreamExt};
use kube::runtime::scheduler::{ScheduleRequest, scheduler};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::index::Name;

/// Does `work` for each name that comes, for so many at once (0: for all), until dropped. What it returns says after what
/// time the name comes again by itself.
///
/// [`kube::runtime::Controller`] does the same with objects that it keeps; there are too many for that.
pub async fn work_off<F>(names: UnboundedReceiver<Name>, at_once: usize, work: impl Fn(Name) -> F)
where
    F: Future<Output = Option<Duration>>,
{
    let (later, again) = unbounded_channel();
    let asked = UnboundedReceiverStream::new(names)
        .map(|message| ScheduleRequest { message, run_at: Instant::now() });
    let mut waiting = pin!(scheduler(select(asked, UnboundedReceiverStream::new(again))));
    let mut busy: HashSet<Name> = HashSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        let full = at_once > 0 && running.len() >= at_once;
        let mut next = waiting.as_mut().hold_unless(|name| !full && !busy.contains(name));
        tokio::select! {
            Some((name, after)) = running.next() => {
                busy.remove(&name);
                if let Some(after) = after {
                    let _ = later.send(ScheduleRequest { message: name, run_at: Instant::now() + after });
                }
            }
            Some(name) = next.next() => {
                busy.insert(name.clone());
                running.push(work(name.clone()).map(move |after| (name, after)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[tokio::test]
    async fn each_is_looked_at_once_for_all_who_ask_and_never_twice_at_a_time() {
        let (sender, names) = unbounded_channel();
        let ask = |name: &str| sender.send(Name::from(name)).unwrap();
        let (log, busy, most) = (RefCell::new(vec![]), Cell::new(0), Cell::new(0));
        let (go, gone) = tokio::sync::watch::channel(false);
        // The one that is called "again" comes by itself once.
        let work = async |name: Name| {
            let first = !log.borrow().contains(&name);
            log.borrow_mut().push(name.clone());
            busy.set(busy.get() + 1);
            most.set(most.get().max(busy.get()));
            let _ = gone.clone().wait_for(|go| *go).await;
            busy.set(busy.get() - 1);
            (&*name == "again" && first).then_some(Duration::from_millis(1))
        };
        let seen = async |count: usize| {
            while log.borrow().len() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(log.borrow().len(), count, "{log:?}");
        };
        let story = async {
            ["a", "a", "b"].into_iter().for_each(ask);
            seen(2).await;
            // Both are under way and wanted again, a third one waits.
            ["a", "b", "a", "again"].into_iter().for_each(ask);
            seen(2).await;
            go.send_replace(true);
            // Both once more, and the third one twice.
            seen(6).await;
            let count = |name: &str| log.borrow().iter().filter(|n| &***n == name).count();
            assert_eq!((count("a"), count("b"), count("again"), most.get()), (2, 2, 2, 2));
        };
        tokio::select! {
            () = work_off(names, 2, &work) => unreachable!("it does not end"),
            () = story => {}
        }
    }
}
