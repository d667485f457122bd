//! Live reads that publishes of one volume share (S7).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync;

/// Live reads, by the name of the volume. Each caller gets the answer of a read that began after the call, so no answer is older
/// than its question. Callers that come while a read is under way share the next one.
pub(super) struct LiveReads<T>(Mutex<HashMap<String, Weak<Reads<T>>>>);

/// The reads of a volume, which take turns. They end with the last publish that waits.
struct Reads<T> {
    begun: AtomicU64,
    /// The number of the last read that was answered, and what it found.
    last: sync::Mutex<Option<(u64, Arc<T>)>>,
}

impl<T> Default for LiveReads<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> LiveReads<T> {
    /// The answer of a read that began after this call: of `read`, or of another caller's. A failure is for its caller alone.
    pub(super) async fn get<E>(
        &self,
        name: &str,
        read: impl Future<Output = Result<T, E>>,
    ) -> Result<Arc<T>, E> {
        let reads = self.of(name);
        let asked = reads.begun.load(SeqCst);
        let mut last = reads.last.lock().await;
        if let Some((_, found)) = last.as_ref().filter(|(began, _)| *began > asked) {
            return Ok(found.clone());
        }
        let began = reads.begun.fetch_add(1, SeqCst) + 1;
        let found = Arc::new(read.await?);
        *last = Some((began, found.clone()));
        Ok(found)
    }

    fn of(&self, name: &str) -> Arc<Reads<T>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reads) = all.get(name).and_then(Weak::upgrade) {
            return reads;
        }
        all.retain(|_, reads| reads.strong_count() > 0);
        let reads = Arc::new(Reads { begun: AtomicU64::new(0), last: sync::Mutex::new(None) });
        all.insert(name.to_owned(), Arc::downgrade(&reads));
        reads
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use futures::future::{join, join_all};
    use tokio::sync::oneshot;

    use super::*;

    type Failed = Result<u64, &'static str>;

    #[tokio::test]
    async fn s7_no_answer_is_older_than_its_question() {
        let (reads, now) = (LiveReads::default(), AtomicU64::new(1));
        let read = || async { Failed::Ok(now.load(SeqCst)) };
        let (answer, answered) = oneshot::channel::<()>();
        let slow = reads.get("a", async {
            let found = now.load(SeqCst);
            answered.await.unwrap();
            Failed::Ok(found)
        });
        // Each of the others asks while the first read is under way, which has begun before the change.
        let others = async {
            now.store(2, SeqCst);
            answer.send(()).unwrap();
            join_all((0..7).map(|_| reads.get("a", read()))).await
        };
        let (first, others) = join(slow, others).await;
        assert_eq!(first.as_deref(), Ok(&1));
        assert!(others.iter().all(|found| found.as_deref() == Ok(&2)), "{others:?}");
        assert!(others.windows(2).all(|two| Arc::ptr_eq(two[0].as_ref().unwrap(), two[1].as_ref().unwrap())));
        // Nobody waits, so nothing is kept.
        now.store(3, SeqCst);
        assert_eq!(reads.get("a", read()).await.as_deref(), Ok(&3));
        assert_eq!(reads.get("b", read()).await.as_deref(), Ok(&3));
        assert_eq!(reads.0.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn s7_a_failure_is_for_its_caller_alone() {
        let reads = LiveReads::default();
        let failing = reads.get("a", async {
            tokio::task::yield_now().await;
            Failed::Err("no API server")
        });
        let (failed, found) = join(failing, reads.get("a", async { Failed::Ok(1) })).await;
        assert_eq!((failed, found.as_deref()), (Err("no API server"), Ok(&1)));
    }
}
