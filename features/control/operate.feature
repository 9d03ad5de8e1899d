Feature: What the control plane answers about pools
  This is about refusals, the dry run of placement, and the cards. features/pools shows what drains, reloads and the configuration do.

  @ORCH-2101
  Scenario Outline: What cannot be operated is refused
    Given the shared daemon
    When I post to "<path>"
      """
      <body>
      """
    Then the answer is <answer>
    And its message says "<says>"

    Examples:
      | path                     | body                                   | answer              | says        |
      | /v1/pools/attic/drain    | {"deadline_ms": 1}                     | 404 NOT_FOUND       | default     |
      | /v1/pools/attic/reload   | {"new_model_ref": "file:x"}            | 404 NOT_FOUND       | default     |
      | /v1/pools/default/drain  | {"deadline_ms": -1}                    | 400 INVALID_PARAMS  | deadline_ms |
      | /v1/pools/default/drain  | {}                                     | 400 INVALID_PARAMS  | deadline_ms |
      | /v1/pools/default/reload | {"new_model_ref": "hf:org/repo"}       | 403 POLICY_DENIED   | outbound off |
      | /v1/pools/default/reload | {"new_model_ref": "haiku"}             | 404 MODEL_NOT_FOUND | file:PATH   |
      | /v1/placement/explain    | {"model_ref": "gpt"}                   | 404 MODEL_NOT_FOUND | haiku       |

  @LO-502
  Scenario: Placement is explained without a task
    Given the shared daemon
    When I post to "/v1/placement/explain"
      """
      {"model_ref": "haiku"}
      """
    Then the answer is 200
    And its body has
      | pool_id              | default          |
      | replica_id           | /^default-[01]$/ |
      | candidates.0.pool_id | default          |
      | evictions            | []               |
    And its body lists 2 "candidates"
    When I post to "/v1/placement/explain"
      """
      {"model_ref": "haiku", "ctx": 100000}
      """
    Then the answer is 200
    And its body has
      | candidates.0.chosen    | false                                                |
      | candidates.0.reasons.0 | /has a context of 256 tokens, fewer than the 100000/ |

  @ORCH-1101
  Scenario: A machine without a GPU says so
    Given the shared daemon
    When I send GET "/v1/gpus"
    Then the answer is 200
    And its body has
      | gpus    | []                |
      | problem | /NVIDIA driver/   |
    And the log has a line "no usable GPU"
