Feature: A model is retired
  New tasks for it are refused, running tasks finish, and then its pool drains.

  @ORCH-3072 @ORCH-3060 @ORCH-3062
  Scenario: A retired model takes no new task, ends what it runs, drains, and comes back
    Given a daemon whose pool has
      | pace | 15 |
    When I post to "/v1/catalog/models"
      """
      {"ref": "file:$MODEL", "wait_ms": 20000}
      """
    Then the answer is 201
    When I send DELETE "/v1/catalog/models/haiku"
    Then the answer is 409 CONFLICT
    And its message says "a pool uses model haiku"
    When I submit task "running"
    And I follow task "running"
    Then stream "running" has 2 tokens
    When I post to "/v1/catalog/models/haiku/state"
      """
      {"state": "Retired", "deadline_ms": 60000}
      """
    Then the answer is 200
    And its body has
      | state    | Retired |
      | drain_by | present |
    And new tasks are refused with 410 MODEL_DEPRECATED
    And its body has
      | retriable | false |
    And stream "running" is "started", tokens, "end"
    And the metrics have
      | model_state{model_id="haiku",state="Retired"} | 1 |
      | model_state{model_id="haiku",state="Active"}  | 0 |
    When I send GET "/v1/pools/default/health"
    Then its body has
      | replicas.0.state | ready |
    When I post to "/v1/catalog/models/haiku/state"
      """
      {"state": "Retired", "deadline_ms": 0}
      """
    Then the answer is 200
    And "/v1/pools/default/health" has come to
      | replicas.0.state | stopped |
      | pool.draining    | true    |
    And new tasks are refused with 410 MODEL_DEPRECATED
    When I run "llama-orch models activate haiku"
    Then it exits with 0
    And "/v1/pools/default/health" has come to
      | replicas.0.state | ready |
      | pool.ready       | true  |
    And the daemon still serves

  @ORCH-3072
  Scenario: What runs at the deadline is kept for the pool's return, over a restart too
    Given a daemon whose pool has
      | pace | 15 |
    When I post to "/v1/catalog/models"
      """
      {"ref": "file:$MODEL", "wait_ms": 20000}
      """
    Then the answer is 201
    When I submit task "cut"
    And I follow task "cut"
    Then stream "cut" has 2 tokens
    When I post to "/v1/catalog/models/haiku/state"
      """
      {"state": "Retired", "deadline_ms": 0}
      """
    Then the answer is 200
    And "/v1/pools/default/health" has come to
      | replicas.0.state | stopped |
    When I post to "/v1/catalog/models/haiku/state"
      """
      {"state": "Active"}
      """
    Then the answer is 200
    And stream "cut" is "started", tokens, "end"
