//! A group and those around it, for Commits that must be refused whole.

use larder_server::{Admin, Finding};
use larder_wire::{CommitCheck, CommitRequest, GroupId, Problem, ProblemType};
use openmls::prelude::{KeyPackage, MlsGroup};

use crate::support::{Device, TestServer, snapshot};

/// Alice's group with Bob in it; Carol and Mallory outside; everyone has a stock.
pub(crate) struct Scene {
    pub(crate) server: TestServer,
    pub(crate) alice: Device,
    pub(crate) bob: Device,
    pub(crate) carol: Device,
    pub(crate) mallory: Device,
    pub(crate) alices: MlsGroup,
    pub(crate) bobs: MlsGroup,
    pub(crate) gid: GroupId,
}

impl Scene {
    pub(crate) async fn set() -> Self {
        let server = TestServer::unswept().await;
        let alice = server.device_with_key_packages("alice", 3).await;
        let bob = server.device_with_key_packages("bob", 3).await;
        let carol = server.device_with_key_packages("carol", 5).await;
        let mallory = server.device_with_key_packages("mallory", 3).await;
        let (mut alices, gid) = alice.create_group().await;
        alice.invite(&mut alices, &[&bob]).await;
        let bobs = bob.join().await;
        Self {
            server,
            alice,
            bob,
            carol,
            mallory,
            alices,
            bobs,
            gid,
        }
    }

    /// Sends a Commit which must be refused with this and change nothing: no epoch, no pool, no inbox.
    pub(crate) async fn refused(
        &self,
        sender: &Device,
        request: &CommitRequest,
        expected: ProblemType,
    ) -> Problem {
        let everyone = [&self.alice, &self.bob, &self.carol, &self.mallory];
        let before = snapshot(&everyone, Some(&self.gid)).await;
        let problem = sender.post_commit(&self.gid, request).await.refused(expected);
        assert_eq!(snapshot(&everyone, Some(&self.gid)).await, before, "{problem}");
        problem
    }

    pub(crate) async fn invalid(&self, sender: &Device, request: &CommitRequest, check: CommitCheck) {
        let problem = self.refused(sender, request, ProblemType::InvalidCommit).await;
        assert_eq!(problem.check.as_deref(), Some(check.code()));
    }

    /// Stages Alice's Commit that adds these, and forgets that it is pending.
    pub(crate) fn stage(&mut self, key_packages: Vec<KeyPackage>) -> CommitRequest {
        let request = self.alice.stage_adds(&mut self.alices, key_packages);
        self.alice.clear(&mut self.alices);
        request
    }

    /// What a check of the whole store finds.
    pub(crate) async fn findings(&self) -> Vec<Finding> {
        let admin = Admin::open(&self.server.database.location()).await.unwrap();
        let mut findings = Vec::new();
        admin.check(|finding| findings.push(finding)).await.unwrap();
        findings
    }

    /// After all refusals the group still works.
    pub(crate) async fn still_works(&mut self) {
        self.alice.invite(&mut self.alices, &[&self.carol]).await;
        self.carol.join().await;
    }
}
