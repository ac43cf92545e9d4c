//! The OpenAPI 3.1 document, made from the handlers; its twin is docs/openapi.json.

use crate::problem::Problem;
use crate::routes::{containers, data, groups, iscsi, node, rewind, schedules, snapshots, vdisks, vms};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Drystone",
        description = "Control plane of a Drystone controller. Sizes and offsets are bytes. Every error is a problem document (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "http://127.0.0.1:7480")),
    paths(
        vdisks::list, vdisks::create, vdisks::show, vdisks::patch, vdisks::delete,
        snapshots::list, snapshots::create, snapshots::delete, snapshots::make_clones, snapshots::roll_back,
        snapshots::changes, snapshots::space,
        rewind::set, rewind::switch_off, rewind::history, rewind::snapshot, rewind::make_clones, rewind::roll_back,
        rewind::snapshot_vm, rewind::make_vm_clones, rewind::roll_vm_back,
        vms::list, vms::create, vms::show, vms::patch, vms::delete, vms::attach, vms::detach, vms::snapshots, vms::snapshot,
        vms::delete_snapshot, vms::make_clones, vms::roll_back, vms::abort_rollback,
        containers::create, containers::list, containers::show, containers::patch, containers::delete,
        groups::create, groups::list, groups::show, groups::delete, groups::add, groups::remove, groups::snapshots,
        groups::snapshot, groups::delete_snapshot, groups::roll_back,
        schedules::create, schedules::list, schedules::show, schedules::patch, schedules::delete,
        data::read, data::write, data::write_zeroes, data::flush, data::extents,
        iscsi::targets, iscsi::target, iscsi::set_access, iscsi::groups, iscsi::create_group, iscsi::set_group,
        iscsi::delete_group, iscsi::sessions, iscsi::drop_session, iscsi::portals,
        node::status, node::healthz, node::metrics, node::openapi,
    ),
    components(schemas(Problem)),
    modifiers(&Bearer),
    security(("bearer" = [])),
    tags(
        (name = "vdisks", description = "Thin virtual disks"),
        (name = "snapshots", description = "Snapshots of vDisks, clones, what changed"),
        (name = "rewind", description = "The past of vDisks: any moment of a window"),
        (name = "vms", description = "VMs: named sets of vDisks"),
        (name = "containers", description = "Sets of vDisks with settings that are theirs as long as they have none of their own"),
        (name = "groups", description = "Consistency groups: VMs of which snapshots are taken at one instant"),
        (name = "schedules", description = "Snapshots that are taken regularly, and how many are kept"),
        (name = "data", description = "Their bytes, for import and export"),
        (name = "iscsi", description = "Who may use vDisks over iSCSI, and who does"),
        (name = "node", description = "The controller itself"),
    )
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let description = "Content of the file `token` in the data directory.";
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build();
        if let Some(components) = &mut openapi.components {
            components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        }
    }
}

/// Indented JSON that ends in a newline.
pub fn document() -> String {
    let mut text = Document::openapi().to_pretty_json().expect("the document is static");
    text.push('\n');
    text
}
