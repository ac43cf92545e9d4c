//! The REST API from the other side: blocking requests, problem documents as errors.

use super::args::Connection;
use crate::config::{API_DEFAULT, DATA_DEFAULT};
use anyhow::{Context, Result, anyhow, bail};
use api::{PatchSchedule, PatchVdisk, PatchVm, Problem, SetInitiators, ZeroRange};
use control::{
    AddVm, AttachVdisk, Change, ChangesPage, ClonesOfPast, ContainerInfo, CreateContainer, CreateSchedule,
    CreateSnapshot, CreateVdisk, CreateVm, CreateVmGroup, DeleteVdisk, DeleteVm, Extent, ExtentPage, GroupRolledBack,
    GroupSnapshotInfo, HistoryPoint, InitiatorGroup, InitiatorGroupInfo, IscsiPortal, IscsiSession, IscsiTarget,
    MakeClones, NodeStatus, RollBack, RollBackToPast, RolledBack, ScheduleInfo, SetContainer, SetIscsiAccess,
    SetRewind, SnapshotInfo, SnapshotOfPast, VdiskInfo, VdiskPage, VdiskSpace, VmGroupInfo, VmInfo, VmPage,
    VmRolledBack, VmSnapshotInfo, rules,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::{Agent, Body};

/// A controller that is there answers the TCP handshake at once; one across the world within seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the controller itself lets anything take (two minutes by default, one hour at most, which nobody waits for).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// vDisks asked for at once: a page of some 40 KB.
const LIST_LIMIT: u32 = 100;

#[derive(Clone)]
pub struct Client {
    agent: Agent,
    server: String,
    token: String,
}

impl Client {
    pub fn new(connection: &Connection) -> Result<Client> {
        let server = server_url(connection.server.as_deref().unwrap_or(API_DEFAULT))?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A proxy of the environment must not see the token.
            .proxy(None)
            .user_agent(concat!("drystone/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_recv_body(Some(ANSWER_TIMEOUT))
            .timeout_send_body(Some(ANSWER_TIMEOUT))
            .build();
        Ok(Client { agent: Agent::new_with_config(config), server, token: find_token(connection)? })
    }

    pub fn status(&self) -> Result<NodeStatus> {
        self.get("/status")
    }

    pub fn create(&self, create: &CreateVdisk) -> Result<VdiskInfo> {
        self.json(Method::POST, "/vdisks", create)
    }

    /// All of them, or of a container, page by page.
    pub fn list(&self, container: Option<&str>) -> Result<Vec<VdiskInfo>> {
        let of = container.map_or_else(String::new, |name| format!("&container={}", encode(name)));
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let page: VdiskPage = self.get(&format!("/vdisks?limit={LIST_LIMIT}{of}{after}"))?;
            all.extend(page.vdisks);
            match page.next {
                Some(next) => after = format!("&after={}", encode(&next)),
                None => return Ok(all),
            }
        }
    }

    pub fn show(&self, name: &str) -> Result<VdiskInfo> {
        self.get(&vdisk(name, ""))
    }

    /// `None` if there is no such vDisk.
    pub fn find(&self, name: &str) -> Result<Option<VdiskInfo>> {
        let response = self.send(Method::GET, &vdisk(name, ""), None, &[])?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        parse(response).map(Some)
    }

    pub fn patch(&self, name: &str, patch: &PatchVdisk) -> Result<VdiskInfo> {
        self.json(Method::PATCH, &vdisk(name, ""), patch)
    }

    pub fn delete(&self, name: &str, delete: DeleteVdisk) -> Result<()> {
        let DeleteVdisk { force, snapshots } = delete;
        let query = format!("?force={force}&snapshots={snapshots}");
        done(self.send(Method::DELETE, &vdisk(name, &query), None, &[])?)
    }

    pub fn snapshots(&self, name: &str) -> Result<Vec<SnapshotInfo>> {
        self.get(&vdisk(name, "/snapshots"))
    }

    pub fn space(&self, name: &str) -> Result<VdiskSpace> {
        self.get(&vdisk(name, "/space"))
    }

    pub fn create_snapshot(&self, name: &str, snapshot: String) -> Result<SnapshotInfo> {
        self.json(Method::POST, &vdisk(name, "/snapshots"), &CreateSnapshot { name: snapshot })
    }

    pub fn delete_snapshot(&self, name: &str, snapshot: &str, force: bool) -> Result<()> {
        let path = vdisk(name, &format!("/snapshots/{}?force={force}", encode(snapshot)));
        done(self.send(Method::DELETE, &path, None, &[])?)
    }

    pub fn make_clones(&self, name: &str, clones: &MakeClones) -> Result<Vec<VdiskInfo>> {
        self.json(Method::POST, &vdisk(name, "/clones"), clones)
    }

    pub fn roll_back(&self, name: &str, snapshot: String) -> Result<RolledBack> {
        self.json(Method::POST, &vdisk(name, "/rollback"), &RollBack { snapshot })
    }

    pub fn set_rewind(&self, name: &str, set: Option<&SetRewind>) -> Result<VdiskInfo> {
        match set {
            Some(set) => self.json(Method::PUT, &vdisk(name, "/rewind"), set),
            None => parse(self.send(Method::DELETE, &vdisk(name, "/rewind"), None, &[])?),
        }
    }

    pub fn inherit_rewind(&self, name: &str) -> Result<VdiskInfo> {
        parse(self.send(Method::DELETE, &vdisk(name, "/rewind?inherit=true"), None, &[])?)
    }

    pub fn history(&self, name: &str, from: Option<&str>, to: Option<&str>) -> Result<Vec<HistoryPoint>> {
        let query =
            [("from", from), ("to", to)].into_iter().filter_map(|(key, time)| Some(format!("{key}={}", encode(time?))));
        self.get(&vdisk(name, &format!("/history?{}", query.collect::<Vec<_>>().join("&"))))
    }

    pub fn snapshot_vm_past(&self, name: &str, past: &SnapshotOfPast) -> Result<VmSnapshotInfo> {
        self.json(Method::POST, &vm(name, "/rewind/snapshots"), past)
    }

    pub fn snapshot_past(&self, name: &str, past: &SnapshotOfPast) -> Result<SnapshotInfo> {
        self.json(Method::POST, &vdisk(name, "/rewind/snapshots"), past)
    }

    pub fn clone_past(&self, name: &str, past: &ClonesOfPast) -> Result<Vec<VdiskInfo>> {
        self.json(Method::POST, &vdisk(name, "/rewind/clones"), past)
    }

    pub fn roll_back_to_past(&self, name: &str, past: &RollBackToPast) -> Result<RolledBack> {
        self.json(Method::POST, &vdisk(name, "/rewind/rollback"), past)
    }

    pub fn clone_vm_past(&self, name: &str, past: &ClonesOfPast) -> Result<Vec<VmInfo>> {
        self.json(Method::POST, &vm(name, "/rewind/clones"), past)
    }

    pub fn roll_vm_back_to_past(&self, name: &str, past: &RollBackToPast) -> Result<VmRolledBack> {
        self.json(Method::POST, &vm(name, "/rewind/rollback"), past)
    }

    /// Page by page, each given to `take`.
    pub fn changes(
        &self,
        name: &str,
        from: Option<&str>,
        to: Option<&str>,
        mut take: impl FnMut(&[Change]) -> Result<()>,
    ) -> Result<()> {
        let side = |word: &str, name: Option<&str>| name.map(|name| format!("&{word}={}", encode(name)));
        let sides = [side("from", from), side("to", to)].into_iter().flatten().collect::<String>();
        let mut offset = 0;
        loop {
            let page: ChangesPage = self.get(&vdisk(name, &format!("/changes?offset={offset}{sides}")))?;
            take(&page.changes)?;
            match page.next {
                Some(next) if next > offset => offset = next,
                Some(_) => bail!("the controller does not go on behind offset {offset}"),
                None => return Ok(()),
            }
        }
    }

    pub fn create_vm(&self, create: &CreateVm) -> Result<VmInfo> {
        self.json(Method::POST, "/vms", create)
    }

    /// All of them, page by page.
    pub fn vms(&self) -> Result<Vec<VmInfo>> {
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let page: VmPage = self.get(&format!("/vms?limit={LIST_LIMIT}{after}"))?;
            all.extend(page.vms);
            match page.next {
                Some(next) => after = format!("&after={}", encode(&next)),
                None => return Ok(all),
            }
        }
    }

    pub fn vm(&self, name: &str) -> Result<VmInfo> {
        self.get(&vm(name, ""))
    }

    pub fn patch_vm(&self, name: &str, patch: &PatchVm) -> Result<VmInfo> {
        self.json(Method::PATCH, &vm(name, ""), patch)
    }

    pub fn delete_vm(&self, name: &str, delete: DeleteVm) -> Result<()> {
        let DeleteVm { force, snapshots, keep_vdisks } = delete;
        let query = format!("?force={force}&snapshots={snapshots}&keep_vdisks={keep_vdisks}");
        done(self.send(Method::DELETE, &vm(name, &query), None, &[])?)
    }

    pub fn attach_vdisk(&self, name: &str, attach: &AttachVdisk) -> Result<VmInfo> {
        self.json(Method::POST, &vm(name, "/vdisks"), attach)
    }

    pub fn detach_vdisk(&self, name: &str, label: &str) -> Result<VmInfo> {
        parse(self.send(Method::DELETE, &vm(name, &format!("/vdisks/{}", encode(label))), None, &[])?)
    }

    pub fn vm_snapshots(&self, name: &str) -> Result<Vec<VmSnapshotInfo>> {
        self.get(&vm(name, "/snapshots"))
    }

    pub fn create_vm_snapshot(&self, name: &str, snapshot: String) -> Result<VmSnapshotInfo> {
        self.json(Method::POST, &vm(name, "/snapshots"), &CreateSnapshot { name: snapshot })
    }

    pub fn delete_vm_snapshot(&self, name: &str, snapshot: &str, force: bool) -> Result<()> {
        let path = vm(name, &format!("/snapshots/{}?force={force}", encode(snapshot)));
        done(self.send(Method::DELETE, &path, None, &[])?)
    }

    pub fn clone_vm(&self, name: &str, clones: &MakeClones) -> Result<Vec<VmInfo>> {
        self.json(Method::POST, &vm(name, "/clones"), clones)
    }

    pub fn create_container(&self, create: &CreateContainer) -> Result<ContainerInfo> {
        self.json(Method::POST, "/containers", create)
    }

    pub fn containers(&self) -> Result<Vec<ContainerInfo>> {
        self.get("/containers")
    }

    pub fn container(&self, name: &str) -> Result<ContainerInfo> {
        self.get(&container(name))
    }

    pub fn set_container(&self, name: &str, set: &SetContainer) -> Result<ContainerInfo> {
        self.json(Method::PATCH, &container(name), set)
    }

    pub fn delete_container(&self, name: &str) -> Result<()> {
        done(self.send(Method::DELETE, &container(name), None, &[])?)
    }

    pub fn create_group(&self, create: &CreateVmGroup) -> Result<VmGroupInfo> {
        self.json(Method::POST, "/groups", create)
    }

    pub fn groups(&self) -> Result<Vec<VmGroupInfo>> {
        self.get("/groups")
    }

    pub fn group(&self, name: &str) -> Result<VmGroupInfo> {
        self.get(&group(name, ""))
    }

    pub fn add_to_group(&self, name: &str, vm: String) -> Result<VmGroupInfo> {
        self.json(Method::POST, &group(name, "/vms"), &AddVm { vm })
    }

    pub fn remove_from_group(&self, name: &str, vm: &str) -> Result<VmGroupInfo> {
        parse(self.send(Method::DELETE, &group(name, &format!("/vms/{}", encode(vm))), None, &[])?)
    }

    pub fn delete_group(&self, name: &str) -> Result<()> {
        done(self.send(Method::DELETE, &group(name, ""), None, &[])?)
    }

    pub fn group_snapshots(&self, name: &str) -> Result<Vec<GroupSnapshotInfo>> {
        self.get(&group(name, "/snapshots"))
    }

    pub fn create_group_snapshot(&self, name: &str, snapshot: String) -> Result<GroupSnapshotInfo> {
        self.json(Method::POST, &group(name, "/snapshots"), &CreateSnapshot { name: snapshot })
    }

    pub fn delete_group_snapshot(&self, name: &str, snapshot: &str, force: bool) -> Result<()> {
        let path = group(name, &format!("/snapshots/{}?force={force}", encode(snapshot)));
        done(self.send(Method::DELETE, &path, None, &[])?)
    }

    pub fn roll_back_group(&self, name: &str, snapshot: String) -> Result<GroupRolledBack> {
        self.json(Method::POST, &group(name, "/rollback"), &RollBack { snapshot })
    }

    pub fn create_schedule(&self, create: &CreateSchedule) -> Result<ScheduleInfo> {
        self.json(Method::POST, "/schedules", create)
    }

    pub fn schedules(&self) -> Result<Vec<ScheduleInfo>> {
        self.get("/schedules")
    }

    pub fn schedule(&self, name: &str) -> Result<ScheduleInfo> {
        self.get(&format!("/schedules/{}", encode(name)))
    }

    pub fn pause_schedule(&self, name: &str, paused: bool) -> Result<ScheduleInfo> {
        self.json(Method::PATCH, &format!("/schedules/{}", encode(name)), &PatchSchedule { paused })
    }

    pub fn delete_schedule(&self, name: &str) -> Result<()> {
        done(self.send(Method::DELETE, &format!("/schedules/{}", encode(name)), None, &[])?)
    }

    pub fn roll_back_vm(&self, name: &str, snapshot: String) -> Result<VmRolledBack> {
        self.json(Method::POST, &vm(name, "/rollback"), &RollBack { snapshot })
    }

    pub fn abort_rollback(&self, name: &str) -> Result<VmInfo> {
        parse(self.send(Method::DELETE, &vm(name, "/rollback"), None, &[])?)
    }

    pub fn iscsi_targets(&self) -> Result<Vec<IscsiTarget>> {
        self.get("/iscsi/targets")
    }

    pub fn iscsi_target(&self, name: &str) -> Result<IscsiTarget> {
        self.get(&vdisk(name, "/iscsi"))
    }

    pub fn set_iscsi_access(&self, name: &str, set: &SetIscsiAccess) -> Result<IscsiTarget> {
        self.json(Method::PATCH, &vdisk(name, "/iscsi"), set)
    }

    pub fn iscsi_sessions(&self) -> Result<Vec<IscsiSession>> {
        self.get("/iscsi/sessions")
    }

    pub fn drop_iscsi_session(&self, id: u64) -> Result<()> {
        done(self.send(Method::DELETE, &format!("/iscsi/sessions/{id}"), None, &[])?)
    }

    pub fn iscsi_portals(&self) -> Result<Vec<IscsiPortal>> {
        self.get("/iscsi/portals")
    }

    pub fn iscsi_groups(&self) -> Result<Vec<InitiatorGroupInfo>> {
        self.get("/iscsi/groups")
    }

    pub fn create_iscsi_group(&self, group: &InitiatorGroup) -> Result<InitiatorGroupInfo> {
        self.json(Method::POST, "/iscsi/groups", group)
    }

    pub fn set_iscsi_group(&self, name: &str, initiators: Vec<String>) -> Result<InitiatorGroupInfo> {
        self.json(Method::PUT, &format!("/iscsi/groups/{}", encode(name)), &SetInitiators { initiators })
    }

    pub fn delete_iscsi_group(&self, name: &str) -> Result<()> {
        done(self.send(Method::DELETE, &format!("/iscsi/groups/{}", encode(name)), None, &[])?)
    }

    /// Exactly `buffer.len()` bytes, or an error.
    pub fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let path = vdisk(name, &format!("/data?offset={offset}&length={}", buffer.len()));
        let response = checked(self.send(Method::GET, &path, None, &[])?)?;
        let mut body = response.into_body().into_reader();
        body.read_exact(buffer).with_context(|| format!("the answer for offset {offset} was cut off"))?;
        match body.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => bail!("the answer for offset {offset} is longer than what was asked for"),
            Err(error) => Err(error).with_context(|| format!("the answer for offset {offset} did not end")),
        }
    }

    pub fn write(&self, name: &str, offset: u64, data: &[u8]) -> Result<()> {
        let path = vdisk(name, &format!("/data?offset={offset}"));
        done(self.send(Method::PUT, &path, Some("application/octet-stream"), data)?)
    }

    pub fn write_zeroes(&self, name: &str, offset: u64, length: u64) -> Result<()> {
        let body = serde_json::to_vec(&ZeroRange { offset, length })?;
        done(self.send(Method::POST, &vdisk(name, "/zeroes"), Some("application/json"), &body)?)
    }

    pub fn flush(&self, name: &str) -> Result<()> {
        done(self.send(Method::POST, &vdisk(name, "/flush"), None, &[])?)
    }

    /// All of `0 .. size_bytes`, page by page.
    pub fn extents(&self, name: &str, size_bytes: u64) -> Result<Vec<Extent>> {
        let mut all = Vec::new();
        let mut offset = 0;
        while offset < size_bytes {
            let range = format!("/extents?offset={offset}&length={}", size_bytes - offset);
            let page: ExtentPage = self.get(&vdisk(name, &range))?;
            let end = page.extents.last().map_or(offset, |last| last.offset + last.len);
            if end <= offset {
                bail!("the controller said nothing about what lies at offset {offset} of vDisk {name:?}");
            }
            all.extend(page.extents);
            offset = end;
        }
        Ok(all)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        parse(self.send(Method::GET, path, None, &[])?)
    }

    fn json<T: DeserializeOwned>(&self, method: Method, path: &str, body: &impl Serialize) -> Result<T> {
        parse(self.send(method, path, Some("application/json"), &serde_json::to_vec(body)?)?)
    }

    fn send(&self, method: Method, path: &str, content_type: Option<&str>, body: &[u8]) -> Result<Response<Body>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/api/v1{path}", self.server))
            .header("Authorization", format!("Bearer {}", self.token));
        if let Some(content_type) = content_type {
            request = request.header("Content-Type", content_type);
        }
        let response = if content_type.is_some() {
            self.agent.run(request.body(body)?)
        } else {
            self.agent.run(request.body(())?)
        };
        response.map_err(|error| self.explain(error))
    }

    fn explain(&self, error: ureq::Error) -> anyhow::Error {
        let refused = match &error {
            ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
            ureq::Error::ConnectionFailed => true,
            _ => false,
        };
        let advice = if refused { "; is it running (`drystone up`), and is --server right?" } else { "" };
        anyhow!("no answer from the controller at {}: {error}{advice}", self.server)
    }
}

/// Path of a vDisk; names that are no names must reach the controller as they are, to be refused there.
fn vdisk(name: &str, rest: &str) -> String {
    format!("/vdisks/{}{rest}", encode(name))
}

fn vm(name: &str, rest: &str) -> String {
    format!("/vms/{}{rest}", encode(name))
}

fn container(name: &str) -> String {
    format!("/containers/{}", encode(name))
}

fn group(name: &str, rest: &str) -> String {
    format!("/groups/{}{rest}", encode(name))
}

/// Percent-encoding of everything but the unreserved characters (RFC 3986, section 2.3).
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn server_url(server: &str) -> Result<String> {
    let server = server.trim_end_matches('/');
    match server.split_once("://") {
        None => Ok(format!("http://{server}")),
        Some(("http", _)) => Ok(server.to_string()),
        Some((scheme, _)) => {
            bail!(
                "the server {server:?} asks for {scheme}, which is not spoken here; use http://HOST:PORT, through `ssh -L` if it is far away"
            )
        }
    }
}

/// From the flag or the variable, else from the data directory.
fn find_token(connection: &Connection) -> Result<String> {
    if let Some(token) = &connection.token {
        return Ok(token.trim().to_string());
    }
    let directory = connection.data.as_deref().unwrap_or(Path::new(DATA_DEFAULT));
    let path = directory.join("token");
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "no token: cannot read {}; name the controller's data directory with --data, or set DRYSTONE_TOKEN",
            path.display()
        )
    })?;
    Ok(text.trim().to_string())
}

fn parse<T: DeserializeOwned>(response: Response<Body>) -> Result<T> {
    let mut response = checked(response)?;
    response
        .body_mut()
        .read_json()
        .context("the controller's answer is not what was expected; are both the same version?")
}

fn done(response: Response<Body>) -> Result<()> {
    let mut response = checked(response)?;
    // Read to its end, so that the connection can be used again.
    response.body_mut().read_to_vec().context("the answer was cut off")?;
    Ok(())
}

/// An error status becomes the problem's own words.
fn checked(mut response: Response<Body>) -> Result<Response<Body>> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    match response.body_mut().read_json::<Problem>() {
        Ok(problem) => Err(anyhow!(problem.detail)),
        Err(_) => Err(anyhow!("the server answered {status} and nothing that a controller says; is --server right?")),
    }
}

/// The longest piece of a transfer must fit into a request.
const _: () = assert!(super::transfer::CHUNK_BYTES <= rules::TRANSFER_BYTES_MAX as u64);
