Feature: The configuration is read again while tasks wait
  Pools that differ are replaced, and no task is lost.

  @ORCH-2101
  Scenario: A pool that is no longer configured ends what it has, and is gone
    Given a pool "default" of built-in workers with
      | replicas | 1 |
    And a pool "second" of built-in workers with
      | model | {id: other, ref: "file:$MODEL"} |
      | pace  | 20                              |
    And a daemon
    When I submit task "running" with
      | model_ref | other |
    And I follow task "running"
    And I submit task "queued" with
      | model_ref | other |
    And I follow task "queued"
    Then stream "running" has 2 tokens
    When the configuration has no pool "second"
    And I send the daemon SIGHUP
    Then the log has a line "the configuration was read again" with
      | changed          | ["pools.second"] |
      | restart_required | []               |
    When I submit task "late" with
      | model_ref | other |
    Then the answer is 404 MODEL_NOT_FOUND
    When I send GET "/v1/pools/second/health"
    Then the answer is 404 NOT_FOUND
    And stream "running" is "started", tokens, "end"
    And stream "queued" is "started", tokens, "end"
    And the log has a line "pools that are no longer configured have ended"
    And 0 workers run for the replica "second-0"
    And 1 workers run for the replica "default-0"

  @ORCH-2101 @ORCH-3031
  Scenario: A pool with more replicas
    Given a daemon whose pool has
      | pace | 20 |
    When I submit tasks "a, b, c" and follow them
    Then stream "a" has 2 tokens
    When the configuration has the pool "default" of built-in workers with
      | pace     | 40                                |
      | replicas | 2                                 |
      | queue    | {capacity: 9, full_policy: reject} |
    And I send POST "/v1/config/reload"
    Then the answer is 200
    And its body has
      | changed          | ["pools.default.pace","pools.default.replicas"] |
      | restart_required | ["pools.default.queue.capacity"]                |
    And streams "a, b, c" are all "started", tokens, "end"
    And "/v1/pools/default/health" has come to
      | pool.replicas_ready | 2  |
      | pool.queue.capacity | 64 |
    When I send POST "/v1/config/reload"
    Then its body has
      | changed          | []                               |
      | restart_required | ["pools.default.queue.capacity"] |

  @ORCH-2101
  Scenario: A pool with another number of replicas keeps those that it has
    Given a daemon whose pool has
      | pace | 20 |
    When I submit tasks "a, b, c" and follow them
    Then stream "a" has 2 tokens
    When I note the worker of "default-0"
    And the configuration has the pool "default" of built-in workers with
      | pace     | 20 |
      | replicas | 2  |
    And I send POST "/v1/config/reload"
    Then the answer is 200
    And its body has
      | changed          | ["pools.default.replicas"] |
      | restart_required | []                         |
    And "/v1/pools/default/health" has come to
      | pool.replicas_ready | 2 |
    And the worker of "default-0" is the one that was noted
    When the configuration has the pool "default" of built-in workers with
      | pace     | 20 |
      | replicas | 1  |
    And I send POST "/v1/config/reload"
    Then the answer is 200
    And streams "a, b, c" are all "started", tokens, "end"
    And "/v1/pools/default/health" has come to
      | pool.replicas | 1 |
    And 0 workers run for the replica "default-1"
    And the worker of "default-0" is the one that was noted

  @ORCH-2101 @HME-003
  Scenario: A file that is not valid changes nothing, and its mistakes are named
    Given a daemon
    When the configuration file is
      """
      auth: {optional_on_loopback: true}
      pools:
        - id: default
          device: cpu
          replica: 2
          model: {id: haiku, ref: "file:gone.gguf"}
      """
    And I send POST "/v1/config/reload"
    Then the answer is 400 INVALID_PARAMS
    And its message says "config.yaml:5:"
    And its message says "did you mean replicas?"
    When the configuration file is
      """
      auth: {optional_on_loopback: true}
      pools:
        - id: default
          device: cpu
          model: {id: haiku, ref: "file:gone.gguf"}
      """
    And I send POST "/v1/config/reload"
    Then the answer is 400 INVALID_PARAMS
    And its message says "config.yaml:5:"
    And its message says "there is no model file"
    When I send the daemon SIGHUP
    Then the log has a line "the configuration was not read again, and nothing has changed"
    And the daemon still serves

  @ORCH-2101
  Scenario: A pool that is new serves, and what only a restart changes is named
    Given a daemon
    When the configuration has the pool "second" of built-in workers with
      | model | {id: other, ref: "file:$DIR/other.gguf"} |
    And a copy of the model as "other.gguf"
    And I send POST "/v1/config/reload"
    Then the answer is 200
    And its body has
      | changed          | ["pools.second"] |
      | restart_required | []               |
    And "/v1/pools/second/health" has come to
      | pool.ready | true |
    When I submit task "there" with
      | model_ref | "other" |
    And I follow task "there"
    Then stream "there" is "started", tokens, "end"
    When the configuration has the settings
      | log | {level: info} |
    And I send POST "/v1/config/reload"
    Then the answer is 200
    And its body has
      | restart_required | ["log.level"] |
    When the configuration has the settings
      | log | {level: loud} |
    And I send POST "/v1/config/reload"
    Then the answer is 400 INVALID_PARAMS
    And its message says "nothing has changed"
    And its message says "loud"
    And the daemon still serves
