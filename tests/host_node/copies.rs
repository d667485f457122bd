//! Copies of sealed volumes, on one node and between nodes (E2).

use std::cell::Cell;
use std::net::TcpListener as StdListener;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reservoir::host::{
    Asked, Content, ErasePolicy, Error, FsType, Host, Pace, Publish, Result, SealedFiles, Sent, Source,
    VolumeSpec, VolumeUid,
};
use reservoir::transfer::{Asker, Authorise, Identity, Peer, Remote, Servings, serve};

use crate::assert_error;
use crate::btrfs::Btrfs;
use crate::seal::{fill, filled};
use crate::support::*;

/// A sealed volume with a tree of what a data set may have.
fn sealed(node: &Node, host: &Host, spec: &VolumeSpec) -> Content {
    filled(node, host, "d", spec, false);
    host.refuse_writers(&spec.uid).unwrap();
    host.seal(&spec.uid, &AtomicBool::new(false)).unwrap()
}

fn copy(host: &Host, to: &VolumeUid, digest: &str, source: &mut dyn Source) -> Result<Content> {
    host.fill_copy(to, digest, source, Pace::full(&AtomicBool::new(false)))
}

fn empty(host: &Host, disk: &str, spec: &VolumeSpec) {
    host.create(disk, &VolumeSpec { mode: Some(0o777), ..spec.clone() }).unwrap();
}

/// Changes the answer to a request.
type Opened<'a> = Box<dyn FnMut(Asked<'_>, Sent) -> Result<Sent> + 'a>;
/// Changes a piece that was read, of so many bytes; the last number is that of all bytes so far.
type ReadPiece<'a> = Box<dyn FnMut(&mut [u8], usize, u64) -> Result<usize> + 'a>;

/// A source that does something else.
struct Faulty<'a> {
    files: SealedFiles,
    /// Bytes that were sent.
    sent: u64,
    opened: Opened<'a>,
    read: ReadPiece<'a>,
}

impl<'a> Faulty<'a> {
    fn of(host: &Host, uid: &VolumeUid) -> Self {
        let files = host.open_sealed(uid).unwrap();
        Self { files, sent: 0, opened: Box::new(|_, sent| Ok(sent)), read: Box::new(|_, read, _| Ok(read)) }
    }

    fn opened(self, opened: impl FnMut(Asked<'_>, Sent) -> Result<Sent> + 'a) -> Self {
        Self { opened: Box::new(opened), ..self }
    }

    fn read(self, read: impl FnMut(&mut [u8], usize, u64) -> Result<usize> + 'a) -> Self {
        Self { read: Box::new(read), ..self }
    }
}

impl Source for Faulty<'_> {
    fn open(&mut self, asked: Asked<'_>) -> Result<Sent> {
        let sent = self.files.open(asked)?;
        (self.opened)(asked, sent)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let read = self.files.read(into)?;
        self.sent += read as u64;
        (self.read)(into, read, self.sent)
    }
}

/// M7: links are links, holes are holes, and each file has its owner.
#[test]
fn e2_a_copy_is_the_same_on_each_filesystem() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &VolumeSpec { mode: Some(0o777), ..ext4(1) }).unwrap();
        host.publish(&node.request(&uid(1), "writer", 0, false)).unwrap();
        let target = node.target("writer", 0);
        fill(&target, false);
        std::os::unix::fs::chown(target.join("plain"), Some(1234), Some(5678)).unwrap();
        std::os::unix::fs::chown(target.join("model"), Some(1234), None).unwrap();
        host.unpublish(&target).unwrap();
        assert_error!(host.open_sealed(&uid(1)), Error::InvalidArgument(_));
        host.refuse_writers(&uid(1)).unwrap();
        let content = host.seal(&uid(1), &AtomicBool::new(false)).unwrap();
        for spec in [ext4(2), xfs(72)] {
            empty(&host, "d", &spec);
            let mut source = host.open_sealed(&uid(1)).unwrap();
            assert_eq!(copy(&host, &spec.uid, &content.digest, &mut source), Ok(content.clone()));
            // A sealed copy asks for nothing.
            let mut silent = Faulty::of(&host, &uid(1)).opened(|_, _| Err(Error::Stopped));
            assert_eq!(copy(&host, &spec.uid, &content.digest, &mut silent), Ok(content.clone()));
            assert_error!(copy(&host, &spec.uid, "blake3:00", &mut silent), Error::Conflict(_));
            host.publish(&node.request(&spec.uid, "reader", 0, true)).unwrap();
            let target = node.target("reader", 0);
            let of = |name: &str| std::fs::symlink_metadata(target.join(name)).unwrap();
            assert_eq!((of("plain").uid(), of("plain").gid(), of("model").uid()), (1234, 5678, 1234));
            assert_eq!(of("weights").ino(), of("model/again").ino());
            assert!(of("sparse").blocks() * 512 < of("sparse").len(), "{:?}", of("sparse"));
            assert_eq!(
                std::fs::read_link(target.join("out")).unwrap().to_str(),
                Some("../../../../etc/passwd")
            );
            assert!(std::fs::write(target.join("never"), "").is_err());
            host.unpublish(&target).unwrap();
            assert_error!(host.publish(&node.request(&spec.uid, "late", 0, false)), Error::Sealed(_));
        }
        // The copy of a copy, on a filesystem of another kind.
        let mut of_copy = host.open_sealed(&uid(2)).unwrap();
        let btrfs = Btrfs::new(node);
        let other = btrfs.host();
        let spec = VolumeSpec { fs_type: FsType::Btrfs, ..ext4(3) };
        empty(&other, "b", &spec);
        assert_eq!(copy(&other, &spec.uid, &content.digest, &mut of_copy), Ok(content));
        other.fence(&spec.uid).unwrap();
        other.erase(&spec.uid, ErasePolicy::Discard).unwrap();
    });
}

/// What arrived is kept, and asked for no more. Each attempt ends at another place.
#[test]
fn e2_a_copy_goes_on_where_it_was_interrupted() {
    on_a_node(|node| {
        let host = node.host();
        let content = sealed(node, &host, &ext4(1));
        empty(&host, "d", &ext4(2));
        let (mut all, mut attempts) = (0, 0_u32);
        loop {
            attempts += 1;
            assert!(attempts < 40, "no progress");
            let mut source = Faulty::of(&host, &uid(1)).read(|_, read, sent| match sent > MIB {
                true => Err(Error::Source("gone".to_owned())),
                false => Ok(read),
            });
            let done = copy(&host, &uid(2), &content.digest, &mut source);
            all += source.sent;
            if let Ok(done) = done {
                assert_eq!(done, content);
                break;
            }
            assert_error!(done, Error::Source(_));
            assert_error!(host.open_sealed(&uid(2)), Error::InvalidArgument(_));
            assert_error!(host.publish(&node.request(&uid(2), "writer", 1, false)), Error::Sealed(_));
        }
        assert!(attempts > 3, "{attempts}");
        assert!(all < content.bytes + u64::from(attempts) * 2 * MIB, "{all} bytes in {attempts} attempts");
        let mut stopped = host.open_sealed(&uid(1)).unwrap();
        empty(&host, "d", &ext4(3));
        let stop = AtomicBool::new(true);
        let result = host.fill_copy(&uid(3), &content.digest, &mut stopped, Pace::full(&stop));
        assert_error!(result, Error::Stopped);
    });
}

/// A crash may leave bytes that were never written.
#[test]
fn e2_what_a_copy_has_is_compared_before_it_is_kept() {
    on_a_node(|node| {
        let host = node.host();
        let content = sealed(node, &host, &ext4(1));
        empty(&host, "d", &ext4(2));
        let mut source = Faulty::of(&host, &uid(1)).read(|into, read, sent| {
            // Of the last attempt that ended within the file.
            if let Some(byte) = into.get_mut(..read).and_then(<[u8]>::last_mut).filter(|_| sent > 3 * MIB) {
                *byte ^= 1;
            }
            if sent > 4 * MIB { Err(Error::Source("gone".to_owned())) } else { Ok(read) }
        });
        assert_error!(copy(&host, &uid(2), &content.digest, &mut source), Error::Source(_));
        let mut source = host.open_sealed(&uid(1)).unwrap();
        assert_eq!(copy(&host, &uid(2), &content.digest, &mut source), Ok(content));
    });
}

/// S12. Whatever a source sends, the copy has the content of the digest or none, and costs no more than its volume.
#[test]
fn e2_a_source_with_other_bytes_is_refused() {
    on_a_node(|node| {
        let host = node.host();
        let content = sealed(node, &host, &ext4(1));
        let digest = &content.digest;
        empty(&host, "d", &ext4(2));
        let refused = |source: Faulty<'_>, words: &str| {
            let mut source = source;
            match copy(&host, &uid(2), digest, &mut source) {
                Err(Error::Source(why)) => assert!(why.contains(words), "{why}"),
                other => panic!("{words}: {other:?}"),
            }
            assert!(source.sent < 20 * MIB, "{words}: {} bytes", source.sent);
            assert_eq!(node.record(&uid(2))["seal"], serde_json::json!({}), "{words}");
        };
        let of = || Faulty::of(&host, &uid(1));
        let manifest = |asked: Asked<'_>| asked == Asked::Manifest;
        refused(
            of().read(|into, read, _| {
                into[0] ^= 1;
                Ok(read)
            }),
            "another manifest",
        );
        refused(
            of().opened(|asked, sent| {
                Ok(Sent { bytes: if manifest(asked) { 1 << 40 } else { sent.bytes }, ..sent })
            }),
            "at most are taken",
        );
        let endless = Cell::new(0);
        refused(
            of().read(|into, _, _| {
                endless.set(endless.get() + 1);
                assert!(endless.get() < 1000, "it reads on and on");
                into.fill(b'x');
                Ok(into.len())
            }),
            "another manifest",
        );
        let of_files = Cell::new(false);
        refused(
            of().opened(|asked, sent| {
                of_files.set(!manifest(asked));
                Ok(sent)
            })
            .read(|into, read, _| {
                into.iter_mut().take(usize::from(of_files.get())).for_each(|byte| *byte ^= 1);
                Ok(read)
            }),
            "sends other bytes than those that were sealed for",
        );
        refused(
            of().opened(|asked, sent| {
                of_files.set(!manifest(asked));
                Ok(sent)
            })
            .read(|into, read, _| if of_files.get() { Ok(into.len()) } else { Ok(read) }),
            "sends more bytes than were sealed for",
        );
        refused(
            of().opened(|asked, sent| match asked {
                Asked::File { .. } => Ok(Sent { bytes: sent.bytes + 1, ..sent }),
                _ => Ok(sent),
            }),
            "another number of bytes",
        );
        refused(
            of().opened(|asked, sent| match asked {
                Asked::Directory(_) => Ok(Sent { uid: u32::MAX, ..sent }),
                _ => Ok(sent),
            }),
            "names no owner",
        );
        let mut source = host.open_sealed(&uid(1)).unwrap();
        assert_eq!(copy(&host, &uid(2), digest, &mut source), Ok(content.clone()));
    });
}

/// A bit that flips on the disk of the copy, and a file that is none of the manifest's.
#[test]
fn e2_the_copy_is_read_again_before_it_is_sealed() {
    on_a_node(|node| {
        let host = node.host();
        let content = sealed(node, &host, &ext4(1));
        empty(&host, "d", &ext4(2));
        let stopped = Faulty::of(&host, &uid(1)).opened(|asked, sent| match asked {
            Asked::File { path: "model/again", .. } => Err(Error::Source("gone".to_owned())),
            _ => Ok(sent),
        });
        let mut stopped = stopped;
        assert_error!(copy(&host, &uid(2), &content.digest, &mut stopped), Error::Source(_));
        host.publish(&node.request(&uid(2), "odd", 0, true)).unwrap();
        let mut source = host.open_sealed(&uid(1)).unwrap();
        assert_error!(copy(&host, &uid(2), &content.digest, &mut source), Error::InUse { .. });
        host.unpublish(&node.target("odd", 0)).unwrap();
        // As a hand on the node would.
        host.admit_writers(&uid(2)).unwrap();
        host.publish(&node.request(&uid(2), "hand", 0, false)).unwrap();
        write(&node.target("hand", 0), "more", "of it");
        host.unpublish(&node.target("hand", 0)).unwrap();
        let differs = copy(&host, &uid(2), &content.digest, &mut source);
        assert_eq!(differs, Err(Error::Differs("more was not there".to_owned())));
        assert_error!(host.open_sealed(&uid(2)), Error::InvalidArgument(_));
        // The next attempt may write again, and finds the same.
        assert_error!(copy(&host, &uid(2), &content.digest, &mut source), Error::Differs(_));
        host.fence(&uid(2)).unwrap();
        host.erase(&uid(2), ErasePolicy::Discard).unwrap();
    });
}

/// S7, S10, M6. The claim is that of the original, which is on another node.
#[test]
fn e3_a_pod_reads_a_complete_copy_and_nothing_else() {
    on_a_node(|node| {
        let host = node.host();
        let content = sealed(node, &host, &ext4(1));
        host.fence(&uid(1)).unwrap();
        empty(&host, "d", &ext4(2));
        let of = |digest: &str, pod: &str| Publish {
            digest: Some(digest.to_owned()),
            ..node.request(&uid(2), pod, 0, true)
        };
        assert_error!(host.publish(&of(&content.digest, "p")), Error::NotReady(_));
        host.unfence(&uid(1)).unwrap();
        let mut half = Faulty::of(&host, &uid(1)).opened(|asked, sent| match asked {
            Asked::File { path: "model/again", .. } => Err(Error::Source("gone".to_owned())),
            _ => Ok(sent),
        });
        assert_error!(copy(&host, &uid(2), &content.digest, &mut half), Error::Source(_));
        // Whatever a late agent, or an object that was restored, says of it.
        assert_error!(host.publish(&of(&content.digest, "p")), Error::NotReady(_));
        assert!(!node.target("p", 0).exists() && node.mounts().is_empty());
        let mut source = host.open_sealed(&uid(1)).unwrap();
        copy(&host, &uid(2), &content.digest, &mut source).unwrap();
        drop(source);

        assert_error!(host.publish(&of("blake3:00", "p")), Error::NotReady(_));
        let writer = Publish { read_only: false, ..of(&content.digest, "p") };
        assert_error!(host.publish(&writer), Error::Sealed(_));
        for _ in 0..2 {
            host.publish(&of(&content.digest, "p")).unwrap();
        }
        let target = node.target("p", 0);
        assert_eq!(host.refuses_writes(&uid(2)), Ok(true), "the file system itself");
        let refused = std::fs::write(target.join("never"), "").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        let used = host.usage_at(&uid(7), "claim", &target).unwrap();
        assert!(used.used_bytes > 0);
        assert_error!(host.usage_at(&uid(7), "another", &target), Error::NotFound(_));

        // A fence keeps new pods out, and the present one keeps its copy.
        let fenced = host.fence(&uid(2)).unwrap();
        assert!(fenced.in_use && fenced.users.len() == 1, "{fenced:?}");
        assert_error!(host.publish(&of(&content.digest, "q")), Error::Fenced(_));
        assert_error!(host.erase(&uid(2), ErasePolicy::Discard), Error::InUse { .. });
        assert!(std::fs::read(target.join("weights")).is_ok());
        host.unpublish_likely(&target, Some(&uid(7))).unwrap();
        host.erase(&uid(2), ErasePolicy::Discard).unwrap();
    });
}

#[test]
fn e2_a_copy_is_as_slow_as_was_asked_for() {
    on_a_node(|node| {
        let host = node.host();
        let content = sealed(node, &host, &ext4(1));
        empty(&host, "d", &ext4(2));
        let (started, stop) = (Instant::now(), AtomicBool::new(false));
        let pace = Pace { bytes_per_second: Some(4 * MIB), ..Pace::full(&stop) };
        let mut source = host.open_sealed(&uid(1)).unwrap();
        host.fill_copy(&uid(2), &content.digest, &mut source, pace).unwrap();
        let most = content.bytes as f64 / (4 * MIB) as f64;
        assert!(started.elapsed().as_secs_f64() > most * 0.8, "{:?}", started.elapsed());
    });
}

/// The agent of a source, and the part of another agent that asks.
struct Net {
    runtime: tokio::runtime::Runtime,
    server: Arc<Identity>,
    servings: Servings,
    address: String,
    asked: Arc<Mutex<Vec<Asker>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Net {
    fn start(host: &Arc<Host>, allowed: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = Arc::new(Identity::make().unwrap());
        let socket = StdListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        socket.set_nonblocking(true).unwrap();
        let asked: Arc<Mutex<Vec<Asker>>> = Arc::default();
        let (host, allowed, seen) = (host.clone(), allowed.to_owned(), asked.clone());
        let authorise: Authorise = Arc::new(move |asker: &Asker| {
            seen.lock().unwrap().push(asker.clone());
            let uid: VolumeUid = asker.volume.parse().map_err(|_| "no UID".to_owned())?;
            let files = host.open_sealed(&uid).map_err(|error| error.to_string())?;
            if asker.key == allowed {
                Ok(files)
            } else {
                Err("the copy is not on the node of that key".to_owned())
            }
        });
        let (identity, servings) = (server.clone(), Servings::default());
        let noted = servings.clone();
        let task = runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(socket).unwrap();
            serve(listener, &identity, authorise, noted).await.unwrap();
        });
        Self { runtime, server, servings, address, asked, task }
    }

    fn source(&self, identity: &Arc<Identity>, key: &str, stop: &Arc<AtomicBool>) -> Remote {
        let peer = Peer {
            node: "n1".to_owned(),
            address: self.address.clone(),
            key: key.to_owned(),
            volume: uid(1).to_string(),
            copy: "copy".to_owned(),
        };
        Remote::new(peer, identity.clone(), stop.clone())
    }

    fn end(self) {
        self.task.abort();
        self.runtime.shutdown_timeout(Duration::from_secs(20));
    }
}

/// A4: both sides compare keys. A stolen name, a wrong server and an asker without right get nothing.
#[test]
fn e2_a_volume_goes_to_the_right_node_alone() {
    on_a_node(|node| {
        let host = Arc::new(node.host());
        let content = sealed(node, &host, &ext4(1));
        let (puller, other, stop) =
            (Arc::new(Identity::make().unwrap()), Arc::new(Identity::make().unwrap()), Arc::default());
        let net = Net::start(&host, puller.public());
        empty(&host, "d", &ext4(2));
        let key = net.server.public().to_owned();
        let why = |source: &mut Remote| match copy(&host, &uid(2), &content.digest, source) {
            Err(Error::Source(why)) => why,
            other => panic!("{other:?}"),
        };
        let refused = why(&mut net.source(&other, &key, &stop));
        assert_eq!(refused, "node n1 gives no copy: the copy is not on the node of that key");
        // Another server at that address: no request reaches it.
        let asked = net.asked.lock().unwrap().len();
        let refused = why(&mut net.source(&puller, other.public(), &stop));
        assert!(refused.starts_with("node n1 cannot be reached at 127.0.0.1:"), "{refused}");
        assert_eq!(net.asked.lock().unwrap().len(), asked);
        // Without TLS, and a server without an answer.
        drop(std::net::TcpStream::connect(&net.address).unwrap());
        let source = &mut net.source(&puller, &key, &stop);
        assert_eq!(copy(&host, &uid(2), &content.digest, source), Ok(content.clone()));
        assert_eq!(net.asked.lock().unwrap().last().unwrap().copy, "copy");

        // A transfer ends with its volume, and goes on elsewhere or later.
        empty(&host, "d", &ext4(3));
        let (to, servings) = (host.clone(), net.servings.clone());
        let pace_stop = AtomicBool::new(false);
        let mut source = net.source(&puller, &key, &stop);
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| {
                let pace = Pace { bytes_per_second: Some(2 * MIB), ..Pace::full(&pace_stop) };
                to.fill_copy(&uid(3), &content.digest, &mut source, pace)
            });
            std::thread::sleep(Duration::from_secs(1));
            servings.stop(uid(1).as_str());
            // The next part is asked for on a new connection, so nothing is lost by that, unless the volume is gone.
            let ended = ended.join().unwrap();
            assert!(
                matches!(&ended, Ok(done) if *done == content) || matches!(ended, Err(Error::Source(_))),
                "{ended:?}"
            );
        });
        let source = &mut net.source(&puller, &key, &stop);
        assert_eq!(copy(&host, &uid(3), &content.digest, source), Ok(content.clone()));
        drop(host);
        net.end();
    });
}

/// A source that accepts and says nothing, and one that says nothing more, end with the puller's own stop.
#[test]
fn e2_a_silent_source_is_left_at_once() {
    on_a_node(|node| {
        let host = node.host();
        empty(&host, "d", &ext4(2));
        let silent = StdListener::bind("127.0.0.1:0").unwrap();
        let stop: Arc<AtomicBool> = Arc::default();
        let identity = Arc::new(Identity::make().unwrap());
        let peer = Peer {
            node: "n1".to_owned(),
            address: silent.local_addr().unwrap().to_string(),
            key: "00".to_owned(),
            volume: uid(1).to_string(),
            copy: "copy".to_owned(),
        };
        let mut source = Remote::new(peer, identity, stop.clone());
        std::thread::scope(|scope| {
            let copied = scope.spawn(|| host.fill_copy(&uid(2), "blake3:00", &mut source, Pace::full(&stop)));
            std::thread::sleep(Duration::from_millis(700));
            let asked = Instant::now();
            stop.store(true, Ordering::Relaxed);
            assert_error!(copied.join().unwrap(), Error::Stopped);
            assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        });
    });
}
