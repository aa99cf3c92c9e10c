//! Changes of documents: those of this host, and those of the mesh that an operator signed. All of
//! a request, or none.

use std::{sync::Arc, time::Duration};

use skein_protocol::{manifest::DocumentId, policy::PolicyKey};

use super::{
    api::{applied, change_error, difference, document_id, joined},
    policy::sign::{Signed, mesh_wide, unsigned},
    show::Agent,
};
use crate::api::{
    ApiError, ApiErrorKind,
    dto::{
        ApplyReport, ApplyResult, DeleteRequest, DiffReport, DiffResult, Documents, PrepareRequest,
        Visible,
    },
};

impl Agent {
    pub(super) async fn change_documents(
        &self,
        documents: &Documents,
    ) -> Result<ApplyReport, ApiError> {
        let (wide, local) = mesh_wide(&documents.files)?;
        let signed = self.signed(&documents.signed)?;
        let heads = |key: &PolicyKey| self.policy.borrow().documents.of(key).to_vec();
        if let Some(id) = unsigned(&wide, &signed, heads) {
            return Err(needs_operator(&id));
        }
        let (file, text) = joined(documents);
        let mut results = Vec::new();
        // First all as a rehearsal; then this host's, since those can still be refused.
        if local > 0 || wide.is_empty() && signed.is_empty() {
            let change = self.workload.apply(&file, &text, documents.dry_run || !signed.is_empty());
            let mut outcomes = change.await.map_err(change_error)?;
            if !documents.dry_run && !signed.is_empty() {
                let change = self.workload.apply(&file, &text, false);
                outcomes = change.await.map_err(change_error)?;
            }
            results.extend(outcomes.iter().map(applied));
        }
        results.extend(signed.iter().map(result));
        let done = |document: &&skein_protocol::manifest::Document| {
            let key = PolicyKey::new(&document.id);
            !signed.iter().any(|one| Some(one.version.key()) == key.as_ref())
        };
        results.extend(wide.iter().filter(done).map(unchanged));
        self.finish(results, &signed, (documents.dry_run, documents.wait_ms)).await
    }

    pub(super) async fn delete_documents(
        &self,
        request: &DeleteRequest,
    ) -> Result<ApplyReport, ApiError> {
        let ids = request.documents.iter().map(|n| document_id(n, &self.settings.namespace));
        let ids: Vec<DocumentId> = ids.collect::<Result<_, _>>()?;
        let signed = self.signed(&request.signed)?;
        let is_signed = |id: &DocumentId| {
            let key = PolicyKey::new(id);
            signed.iter().any(|one| Some(one.version.key()) == key.as_ref())
        };
        let (wide, local): (Vec<_>, Vec<_>) =
            ids.into_iter().partition(|id| id.kind.is_mesh_wide());
        if let Some(id) = wide.iter().find(|id| !request.dry_run && !is_signed(id)) {
            return Err(needs_operator(id));
        }
        // First all as a rehearsal, so that none is deleted when one cannot be.
        for id in &local {
            self.workload.delete(id.clone(), true).await.map_err(change_error)?;
        }
        let mut results = Vec::new();
        for id in local {
            let outcome = self.workload.delete(id, request.dry_run).await;
            results.push(applied(&outcome.map_err(change_error)?));
        }
        results.extend(signed.iter().map(result));
        self.finish(results, &signed, (request.dry_run, request.wait_ms)).await
    }

    async fn finish(
        &self,
        results: Vec<ApplyResult>,
        signed: &[Signed],
        (dry_run, wait_ms): (bool, u64),
    ) -> Result<ApplyReport, ApiError> {
        let wait = Duration::from_millis(wait_ms);
        let visible = match (dry_run, signed.is_empty()) {
            (true, _) => Visible::default(),
            (false, true) => self.visible(wait).await,
            (false, false) => {
                self.take(signed).await?;
                self.agreed(wait).await
            }
        };
        Ok(ApplyReport { results, visible })
    }

    pub(super) async fn compare_documents(
        &self,
        documents: &Documents,
    ) -> Result<DiffReport, ApiError> {
        let (wide, local) = mesh_wide(&documents.files)?;
        let mut results = Vec::new();
        if local > 0 || wide.is_empty() {
            let (file, text) = joined(documents);
            let held = Arc::clone(&self.workload.snapshot.borrow());
            let outcomes = self.workload.apply(&file, &text, true).await.map_err(change_error)?;
            results.extend(outcomes.iter().map(|outcome| {
                let id = &outcome.document.id;
                let before = held.document(id.kind, &id.namespace, &id.name);
                let before = before.map(|owned| owned.document.to_yaml()).unwrap_or_default();
                DiffResult {
                    kind: id.kind.word().to_owned(),
                    namespace: id.namespace.to_string(),
                    name: id.name.to_string(),
                    result: outcome.change.word().to_owned(),
                    diff: difference(&before, &outcome.document.to_yaml()),
                }
            }));
        }
        if !wide.is_empty() {
            let request =
                PrepareRequest { files: documents.files.clone(), ..PrepareRequest::default() };
            let prepared = self.prepare(&request).await?;
            results.extend(prepared.drafts.into_iter().map(|draft| DiffResult {
                kind: draft.document.kind,
                namespace: draft.document.namespace,
                name: draft.document.name,
                result: draft.result,
                diff: draft.diff,
            }));
        }
        Ok(DiffReport { results })
    }
}

fn needs_operator(id: &DocumentId) -> ApiError {
    let text = format!("{id} holds for the whole mesh, and no operator signed it");
    ApiError::new(ApiErrorKind::Denied, text)
        .fix("`skein apply` signs it with your operator key: --as FILE, or SKEIN_OPERATOR_KEY")
}

fn result(signed: &Signed) -> ApplyResult {
    let id = signed.version.key().document();
    let (kind, namespace, name) = match id {
        Some(id) => (id.kind.word().to_owned(), id.namespace.to_string(), id.name.to_string()),
        None => Default::default(),
    };
    ApplyResult {
        kind,
        namespace,
        name,
        result: signed.result.to_owned(),
        hash: signed.version.version().to_string(),
        warnings: Vec::new(),
    }
}

fn unchanged(document: &skein_protocol::manifest::Document) -> ApplyResult {
    ApplyResult {
        kind: document.id.kind.word().to_owned(),
        namespace: document.id.namespace.to_string(),
        name: document.id.name.to_string(),
        result: "unchanged".to_owned(),
        hash: document.hash().to_string(),
        warnings: Vec::new(),
    }
}
