Feature: Workers are supervised
  A worker that dies is replaced, and none outlives the daemon.

  @ORCH-3001 @OC-CTRL-2030
  Scenario: A worker is killed in mid-stream
    Given a daemon whose pool has
      | pace | 20 |
    When I submit task "victim" with
      | determinism | best_effort |
    And I follow task "victim"
    Then stream "victim" has 3 tokens
    When I kill a worker of the daemon
    Then stream "victim" is "started", tokens, "end"
    And the replica "default-0" is restarted and ready again
    When I submit task "next"
    And I follow task "next"
    Then stream "next" is "started", tokens, "end"
    And the metrics have
      | llorch_worker_restarts_total{replica_id="default-0",reason="exited"} | 1 |

  @ORCH-3001
  Scenario: A worker's death is no matter to the other one
    Given a daemon whose pool has
      | replicas | 2  |
      | pace     | 15 |
    When I submit task "a" with
      | determinism | best_effort |
    And I submit task "b" with
      | determinism | best_effort |
    And I follow task "a"
    And I follow task "b"
    Then stream "a" has 3 tokens
    And stream "b" has 3 tokens
    When I kill a worker of the daemon
    Then stream "a" is "started", tokens, "end"
    And stream "b" is "started", tokens, "end"

  @ORCH-3001
  Scenario: A queued task survives the death of a worker
    Given a daemon whose pool has
      | pace | 20 |
    When I submit task "victim" with
      | determinism | best_effort |
    And I follow task "victim"
    And I submit task "queued"
    And I follow task "queued"
    Then stream "victim" has 3 tokens
    When I kill a worker of the daemon
    Then stream "victim" is "started", tokens, "end"
    And stream "queued" is "started", tokens, "end"

  @ORCH-3001
  Scenario: The daemon is killed, and no worker is left
    Given a daemon whose pool has
      | replicas | 2  |
      | pace     | 20 |
    When I submit task "running"
    And I follow task "running"
    Then stream "running" has 2 tokens
    When I hang up stream "running"
    And I kill the daemon
    Then no worker of it is left
    When I start the daemon again
    And I submit task "next"
    And I follow task "next"
    Then stream "next" is "started", tokens, "end"

  @ORCH-3001
  Scenario: A worker is closed to others
    Given a daemon whose pool has
      | replicas | 2 |
    Then its workers listen on loopback only and answer nobody without their key
    And no worker's command line holds a key

  @ORCH-3001 @OC-CTRL-2030
  Scenario: SIGTERM lets running tasks finish, refuses new ones, and exits with 0
    Given a daemon whose pool has
      | pace | 15 |
    When I submit task "running"
    And I follow task "running"
    Then stream "running" has 2 tokens
    When I send the daemon SIGTERM
    Then new tasks are refused with 503 SHUTTING_DOWN
    And its body has
      | retriable      | true |
      | retry_after_ms | > 0  |
    And stream "running" is "started", tokens, "end"
    And the daemon exits with 0
    And no worker of it is left

  @ORCH-3001
  Scenario: A best-effort task that does not end is ended by the stop
    Given a fake engine with 1 slot
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 9, "match": "haiku"}
      """
    And a pool "default" in front of the fake engine with
      | timeouts | {wall: 1m, idle: 1m} |
    And a daemon that may take "2s" to stop
    When I submit task "endless" with
      | determinism | best_effort |
    And I follow task "endless"
    And the fake engine releases 1 token
    Then stream "endless" has 1 token
    When I send the daemon SIGTERM
    Then stream "endless" ends with error SHUTTING_DOWN
    And the daemon exits with 0

  @ORCH-3001
  Scenario: An external engine that dies is not ours to restart
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 9, "fault": "exit", "after": 2}
      """
    When I submit task "victim" with
      | determinism | best_effort |
    And I follow task "victim"
    Then a metrics frame of stream "victim" has
      | phase | moving |
    When I submit task "next"
    Then the answer is 503 POOL_UNREADY
    When I cancel task "victim"
    Then stream "victim" ends with error CANCELED
    And stream "victim" holds 2 token events

  @LO-203 @LO-209
  Scenario: An external engine of several slots starts again
    Given a fake engine with 8 slots
    And a daemon in front of a fake engine whose pool has
      | slots | 8 |
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 9}
      """
    When I submit tasks "a, b" and follow them
    And the fake engine has come to busy 2
    And the fake engine is killed
    Then a metrics frame of stream "a" has
      | phase | moving |
    And a metrics frame of stream "b" has
      | phase | moving |
    When a fake engine with 8 slots takes its place
    Then streams "a, b" are all "started", tokens, "end"
    And the metrics have
      | llorch_failovers_total{pool_id="default",outcome="resumed"} | 2 |

  @HME-003
  Scenario: A second daemon on the same data folder or port refuses to start
    Given a daemon
    When I run "orchestratord serve --config config.yaml"
    Then it exits with 1
    And it says "another orchestratord uses the data folder"
    Given the environment
      | LLORCH_DATA_DIR  | $DIR/other      |
      | LLORCH_BIND_ADDR | 127.0.0.1:$PORT |
    When I run "orchestratord serve --config config.yaml"
    Then it exits with 1
    And it says "is taken by another program"
