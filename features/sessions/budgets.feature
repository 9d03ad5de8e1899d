Feature: Budgets
  Budgets bound what the tasks of a session, and of an API token, may take together. A refusal says what is left and when it renews.

  @ORCH-3099 @ORCH-3014
  Scenario: A session runs out of its budget
    Given a daemon whose pool has
      | pace | 10 |
    When I post to "/v1/sessions"
      """
      {"session_id": "22222222-aaaa-4bbb-8ccc-000000000001", "budget": {"tokens": 60, "time_ms": 600000}}
      """
    Then the answer is 201
    And its headers have
      | X-Budget-Tokens-Remaining  | 60     |
      | X-Budget-Time-Remaining-Ms | 600000 |
    When I submit task "one" with
      | session_id | 22222222-aaaa-4bbb-8ccc-000000000001 |
      | max_tokens | 15                                   |
    Then the answer is 202
    And its headers have
      | X-Budget-Tokens-Remaining | /^[0-9]+$/ |
    When I follow task "one"
    Then a metrics frame of stream "one" has
      | budget_tokens_remaining | < 60 |
    And stream "one" ends with end
    When I send GET "/v1/sessions/22222222-aaaa-4bbb-8ccc-000000000001"
    Then its body has
      | budget_tokens_remaining  | < 45     |
      | budget_time_remaining_ms | < 600000 |
    When I submit task "two" with
      | session_id | 22222222-aaaa-4bbb-8ccc-000000000001 |
      | max_tokens | 40                                   |
    Then the answer is 429 BUDGET_EXCEEDED
    And its message says "of the budget of 60 tokens"
    And its message says "begin another session"
    And its body has
      | policy_label   | budget |
      | retriable      | false  |
      | retry_after_ms | > 0    |
    And its headers give the same figures as its body
    When I send GET "/v1/sessions/22222222-aaaa-4bbb-8ccc-000000000001"
    Then its body has
      | turns | 1 |

  @ORCH-3099
  Scenario Outline: What an API token spent survives <what>
    Given the settings
      | budgets | {token: {tokens: 100, renew: 8760h}} |
    And a daemon
    When I submit task "one" with
      | task_id    | spends |
      | max_tokens | 20     |
    Then its headers have
      | X-Budget-Tokens-Remaining | /^[1-7]?[0-9]$/ |
    When I follow task "one"
    Then stream "one" ends with end
    When I submit task "again" with
      | task_id    | spends |
      | max_tokens | 20     |
    Then the answer is the same as the admission of task "one"
    When I <end> the daemon
    And I start the daemon again
    And I submit task "two" with
      | max_tokens | 60 |
    Then the answer is 429 BUDGET_EXCEEDED
    And its message says "the budget renews in"
    And its body has
      | retriable | true |

    Examples:
      | what      | end  |
      | a kill -9 | kill |
      | a stop    | stop |

  @ORCH-3099
  Scenario: A task that was decoded again after a crash is charged once
    Given the settings
      | budgets | {token: {tokens: 100, cost: 100, renew: 8760h}} |
    And a daemon whose pool has
      | pace  | 5                               |
      | price | {per_1k_in: 0, per_1k_out: 100} |
    When I submit task "long" with
      | max_tokens | 10 |
    And I follow task "long" as "cut"
    Then stream "cut" has 3 tokens
    When I kill the daemon
    Then stream "cut" breaks off
    When I start the daemon again
    And I follow task "long"
    Then stream "long" ends with end
    And the end of stream "long" has
      | tokens_out | 10 |
    When I post to "/v1/sessions"
      """
      {"session_id": "22222222-aaaa-4bbb-8ccc-000000000003"}
      """
    Then its body has
      | budget_cost_remaining | 99 |

  @ORCH-3099 @OC-CTRL-2030
  Scenario Outline: A budget that makes no sense is refused: <budget>
    Given the shared daemon
    When I post to "/v1/sessions"
      """
      {"budget": <budget>}
      """
    Then the answer is 400 INVALID_PARAMS

    Examples:
      | budget                         |
      | {"tokens": -1}                 |
      | {"tokens": 0}                  |
      | {"tokens": 92233720368547758080} |
      | {"time_ms": -5}                |
      | {"cost": -0.5}                 |
      | {"cost": 1e999}                |
      | {"coins": 5}                   |
