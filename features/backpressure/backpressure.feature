Feature: Back-pressure
  A full queue refuses the newcomer or drops the task that has waited longest, as configured. It says when to try again.

  @ORCH-3006 @ORCH-2007
  Scenario: Tasks beyond the cap of their priority are refused
    Given the settings
      | rates | {batch: {per_second: 0.01, burst: 2}} |
    And a daemon
    When I submit a batch task "one"
    And I submit a batch task "two"
    And I submit a batch task "three"
    Then the answer is 429 RATE_LIMITED
    And its body has
      | policy_label | rate |
      | retriable    | true |
    And its headers give the same figures as its body
    When I submit an interactive task "other"
    And I follow task "other"
    Then stream "other" is "started", tokens, "end"

  @ORCH-3005 @ORCH-2007 @ORCH-3004
  Scenario: Policy reject refuses the newcomer
    Given a daemon in front of a fake engine whose pool has
      | queue | {capacity: 2, full_policy: reject} |
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 1}
      """
    When I submit task "running"
    And the fake engine has come to busy 1
    And I submit an interactive task "one"
    And I submit a batch task "two"
    And I submit an interactive task "refused"
    Then the answer is 429 ADMISSION_REJECT
    And its body has
      | policy_label   | reject   |
      | retriable      | true     |
      | retry_after_ms | > 0      |
      | pool_id        | default  |
      | engine         | llamacpp |
    And its headers have
      | Retry-After  | /^[1-9][0-9]*$/ |
      | X-Backoff-Ms | /^[1-9][0-9]*$/ |
    And its headers give the same figures as its body
    When I cancel task "one"
    Then the answer is 200
    When I submit task "accepted"
    Then the answer is 202
    When the fake engine releases 3 tokens
    Then the log places the tasks in the order "running, accepted, two"

  @ORCH-2007
  Scenario: The figures come from what tasks took
    Given a daemon in front of a fake engine whose pool has
      | queue | {capacity: 1, full_policy: reject} |
    And the fake engine's script is
      """
      {"tokens": 4, "interval_ms": 500}
      """
    When I submit task "measured"
    Then task "measured" is completed
    When the fake engine's script is
      """
      {"stepped": true, "tokens": 1}
      """
    And I submit task "running"
    And the fake engine has come to busy 1
    And I submit task "waiting"
    And I submit task "refused"
    Then the answer is 429 ADMISSION_REJECT
    And its body has
      | retry_after_ms | >= 1500 |
    And its headers give the same figures as its body

  @ORCH-3005
  Scenario: Policy drop-lru drops the oldest batch task first
    Given a daemon in front of a fake engine whose pool has
      | queue | {capacity: 3, full_policy: drop-lru} |
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 1}
      """
    When I submit task "running"
    And the fake engine has come to busy 1
    And I submit an interactive task "i1"
    And I submit a batch task "b1"
    And I submit a batch task "b2"
    And I follow task "b1"
    And I submit an interactive task "i2"
    Then the answer is 202
    And stream "b1" ends with error QUEUE_FULL_DROP_LRU
    And stream "b1" is "started", "error"
    And the error of stream "b1" has
      | retriable      | true |
      | retry_after_ms | > 0  |
    And task "b1" is failed
    When I follow task "b2"
    And I submit a batch task "b3"
    Then the answer is 202
    And stream "b2" ends with error QUEUE_FULL_DROP_LRU
    When the fake engine releases 4 tokens
    Then the log places the tasks in the order "running, i1, i2, b3"

  @ORCH-3005 @ORCH-2007
  Scenario: Without a queued batch task, the oldest interactive one gives way to an interactive newcomer only
    Given a daemon in front of a fake engine whose pool has
      | queue | {capacity: 2, full_policy: drop-lru} |
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 1}
      """
    When I submit task "running"
    And the fake engine has come to busy 1
    And I submit an interactive task "i1"
    And I submit an interactive task "i2"
    And I follow task "i1"
    And I submit a batch task "refused"
    Then the answer is 429 ADMISSION_REJECT
    And its body has
      | policy_label | drop-lru |
      | retriable    | true     |
    And its headers give the same figures as its body
    And task "i1" is queued
    When I submit an interactive task "i3"
    Then the answer is 202
    And stream "i1" ends with error QUEUE_FULL_DROP_LRU
    When the fake engine releases 3 tokens
    Then the log places the tasks in the order "running, i2, i3"
