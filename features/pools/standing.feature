Feature: How a pool stands
  A client reads of each pool whether it serves, is on its way, or waits for somebody, and what to do.

  @LO-840 @LO-841 @LO-842
  Scenario: One missing model file keeps one pool down, until it is there
    Given a pool "default" of built-in workers with
      | replicas | 1 |
    And a pool "late" of built-in workers with
      | replicas | 1                               |
      | model    | {id: late, ref: "file:late.gguf"} |
    And the daemon runs
    Then "/v1/pools/default/health" has come to
      | pool.state | ready |
    When I send GET "/readyz"
    Then the answer is 200
    And "/v1/pools/late/health" has come to
      | pool.state       | failed                       |
      | pool.ready       | false                        |
      | pool.last_error  | /put it there.*late\.gguf/   |
      | replicas.0.state | failed                       |
    When I submit task "served"
    Then task "served" is completed
    When I submit task "refused" with
      | model_ref | late |
    Then the answer is 503 POOL_UNAVAILABLE
    And its message says "pool 'late' failed, and takes no tasks: the model's file cannot be read: put it there"
    And its body has
      | retriable | false |
      | pool_id   | late  |
    When I post to "/v1/placement/explain"
      """
      {"model_ref": "late"}
      """
    Then the answer is 200
    And its body has
      | candidates.0.reasons.0 | /pool 'late' failed/ |
    When a copy of the model as "late.gguf"
    And I post to "/v1/pools/late/load"
      """
      {}
      """
    Then the answer is 202
    And "/v1/pools/late/health" has come to
      | pool.state | ready |
    When I submit task "now" with
      | model_ref | late |
    Then task "now" is completed

  @LO-841 @LO-842
  Scenario: A drained pool says so, and a resume brings it back
    Given a daemon
    When I post to "/v1/pools/default/drain"
      """
      {"deadline_ms": 0}
      """
    Then "/v1/pools/default/health" has come to
      | pool.state | drained |
    When I submit task "refused"
    Then the answer is 503 POOL_UNREADY
    And its message says "pool 'default' is drained"
    And its body has
      | retriable | false |
    When I send GET "/readyz"
    Then the answer is 503 POOL_UNREADY
    And its body has
      | reasons.0.pool_id | default           |
      | reasons.0.code    | POOL_UNREADY      |
      | reasons.0.message | /pool resume default/ |
    When I post to "/v1/pools/default/load"
      """
      {}
      """
    Then the answer is 409 CONFLICT
    When I post to "/v1/pools/default/unload"
      """
      {}
      """
    Then the answer is 409 CONFLICT
    And its message says "pinned"
    When I post to "/v1/pools/attic/resume"
      """
      {}
      """
    Then the answer is 404 NOT_FOUND
    When I post to "/v1/pools/default/resume"
      """
      {}
      """
    Then the answer is 202
    And "/v1/pools/default/health" has come to
      | pool.state | ready |
    And the daemon still serves

  @LO-842
  Scenario: A pool on demand is loaded and unloaded by hand
    Given a pool "resting" of built-in workers with
      | lifecycle | on_demand |
    And a daemon
    Then "/v1/pools/resting/health" has come to
      | pool.state | unloaded |
    When I post to "/v1/pools/resting/load"
      """
      {}
      """
    Then the answer is 202
    And "/v1/pools/resting/health" has come to
      | pool.state | ready |
    When I post to "/v1/pools/resting/unload"
      """
      {}
      """
    Then the answer is 202
    And "/v1/pools/resting/health" has come to
      | pool.state | unloaded |
    When I submit task "again"
    Then task "again" is completed

  @LO-841
  Scenario: While the disk takes nothing, nothing is ready
    Given a daemon
    When I send GET "/readyz"
    Then the answer is 200
    When the disk takes no more bytes from the daemon
    And I submit task "refused"
    Then the answer is 503 LEDGER_UNAVAILABLE
    When I send GET "/readyz"
    Then the answer is 503 LEDGER_UNAVAILABLE
    And its body has
      | reasons.0.code | LEDGER_UNAVAILABLE |
