
    def create_task(self, request: TaskRequest) -> Admission:
        """Submit a task."""
        answer: Admission = self._json("POST", "/v1/tasks", {}, request)
        return answer

    def list_tasks(self, *, state: Optional[TaskState] = None, limit: Optional[int] = None) -> TaskList:
        """Recent tasks, newest first."""
        answer: TaskList = self._json("GET", "/v1/tasks", {"state": state, "limit": limit})
        return answer

    def get_task(self, id: str) -> TaskStatus:
        """One task."""
        answer: TaskStatus = self._json("GET", f"/v1/tasks/{_at(id)}", {})
        return answer

    def delete_task(self, id: str) -> None:
        """Delete an ended task."""
        self._read("DELETE", f"/v1/tasks/{_at(id)}", {})

    def cancel_task(self, id: str) -> CancelResult:
        """Cancel a task."""
        answer: CancelResult = self._json("POST", f"/v1/tasks/{_at(id)}/cancel", {})
        return answer

    def create_session(self, request: SessionRequest) -> Session:
        """Begin a session with limits of its own."""
        answer: Session = self._json("POST", "/v1/sessions", {}, request)
        return answer

    def get_session(self, id: str) -> Session:
        """One session."""
        answer: Session = self._json("GET", f"/v1/sessions/{_at(id)}", {})
        return answer

    def delete_session(self, id: str) -> None:
        """Evict a session."""
        self._read("DELETE", f"/v1/sessions/{_at(id)}", {})

    def get_capabilities(self) -> Capabilities:
        """What this server can do."""
        answer: Capabilities = self._json("GET", "/v1/capabilities", {})
        return answer

    def list_pools(self) -> PoolList:
        """The pools."""
        answer: PoolList = self._json("GET", "/v1/pools", {})
        return answer

    def get_pool_health(self, id: PoolID) -> PoolHealth:
        """A pool's health."""
        answer: PoolHealth = self._json("GET", f"/v1/pools/{_at(id)}/health", {})
        return answer

    def get_fingerprint(self, id: str) -> Fingerprint:
        """What a fingerprint stands for."""
        answer: Fingerprint = self._json("GET", f"/v1/fingerprints/{_at(id)}", {})
        return answer

    def drain_pool(self, id: PoolID, request: DrainRequest) -> DrainStatus:
        """Stop a pool taking tasks, and let it finish."""
        answer: DrainStatus = self._json("POST", f"/v1/pools/{_at(id)}/drain", {}, request)
        return answer

    def resume_pool(self, id: PoolID) -> PoolStanding:
        """End a drain."""
        answer: PoolStanding = self._json("POST", f"/v1/pools/{_at(id)}/resume", {})
        return answer

    def load_pool(self, id: PoolID) -> PoolStanding:
        """Load a pool's model now."""
        answer: PoolStanding = self._json("POST", f"/v1/pools/{_at(id)}/load", {})
        return answer

    def unload_pool(self, id: PoolID) -> PoolStanding:
        """Let go of an on-demand pool's workers."""
        answer: PoolStanding = self._json("POST", f"/v1/pools/{_at(id)}/unload", {})
        return answer

    def reload_pool(self, id: PoolID, request: ReloadRequest) -> ReloadResult:
        """Swap a pool's model."""
        answer: ReloadResult = self._json("POST", f"/v1/pools/{_at(id)}/reload", {}, request)
        return answer

    def list_gpus(self) -> GPUList:
        """The GPUs, and who holds their memory."""
        answer: GPUList = self._json("GET", "/v1/gpus", {})
        return answer

    def list_hosts(self) -> HostList:
        """The hosts that share this server's record."""
        answer: HostList = self._json("GET", "/v1/hosts", {})
        return answer

    def explain_placement(self, request: ExplainRequest) -> Explanation:
        """Dry run of a task's placement."""
        answer: Explanation = self._json("POST", "/v1/placement/explain", {}, request)
        return answer

    def reload_config(self) -> ConfigReloadResult:
        """Read the configuration file again."""
        answer: ConfigReloadResult = self._json("POST", "/v1/config/reload", {})
        return answer

    def register_worker(self, request: WorkerRegistration) -> WorkerLease:
        """A worker on another host joins a pool."""
        answer: WorkerLease = self._json("POST", "/v1/workers/register", {}, request)
        return answer

    def create_model(self, request: ModelRequest) -> CatalogModel:
        """Add a model to the catalog."""
        answer: CatalogModel = self._json("POST", "/v1/catalog/models", {}, request)
        return answer

    def list_models(self, *, state: Optional[ModelState] = None) -> ModelList:
        """The models of the catalog."""
        answer: ModelList = self._json("GET", "/v1/catalog/models", {"state": state})
        return answer

    def get_model(self, id: str) -> CatalogModel:
        """One model."""
        answer: CatalogModel = self._json("GET", f"/v1/catalog/models/{_at(id)}", {})
        return answer

    def delete_model(self, id: str) -> None:
        """Remove a model from the catalog."""
        self._read("DELETE", f"/v1/catalog/models/{_at(id)}", {})

    def verify_model(self, id: str) -> Verification:
        """Check a model's bytes against its digest and signature."""
        answer: Verification = self._json("POST", f"/v1/catalog/models/{_at(id)}/verify", {})
        return answer

    def set_model_state(self, id: str, request: ModelStateRequest) -> CatalogModel:
        """Activate or retire a model."""
        answer: CatalogModel = self._json("POST", f"/v1/catalog/models/{_at(id)}/state", {}, request)
        return answer

    def list_engines(self) -> EngineList:
        """The engines that were prepared."""
        answer: EngineList = self._json("GET", "/v1/catalog/engines", {})
        return answer

    def create_artifact(self, request: ArtifactRequest) -> Artifact:
        """Store an artifact."""
        answer: Artifact = self._json("POST", "/v1/artifacts", {}, request)
        return answer

    def list_artifacts(self, *, kind: Optional[ArtifactKind] = None, task_id: Optional[str] = None, tag: Optional[str] = None, limit: Optional[int] = None) -> ArtifactList:
        """Artifacts, newest first."""
        answer: ArtifactList = self._json("GET", "/v1/artifacts", {"kind": kind, "task_id": task_id, "tag": tag, "limit": limit})
        return answer

    def get_artifact(self, id: str) -> Artifact:
        """One artifact's entry."""
        answer: Artifact = self._json("GET", f"/v1/artifacts/{_at(id)}", {})
        return answer

    def get_artifact_content(self, id: str) -> bytes:
        """An artifact's bytes."""
        return self._read("GET", f"/v1/artifacts/{_at(id)}/content", {})

    def get_liveness(self) -> Health:
        """The process is alive."""
        answer: Health = self._json("GET", "/healthz", {})
        return answer

    def get_readiness(self) -> Health:
        """Tasks can be served."""
        answer: Health = self._json("GET", "/readyz", {})
        return answer

    def get_metrics(self) -> str:
        """Prometheus metrics."""
        return self._read("GET", "/metrics", {}).decode()
