Feature: The energy of tasks
  A card counts the energy that it takes. It is split over the tasks that run on it, and what nobody runs for is idle energy. What no counter tells
  is left out. The stand-in's card takes the same power all the time.

  @LO-504 @LO-626 @LO-625
  Scenario: A task says what its card took and what that cost, and that survives a restart
    Given the cards of the reference box
    And card 0 takes 200 W, by a counter of its own
    And the settings
      | energy | {price_per_kwh: 3600} |
    And a pool "large" of a model of 20 GiB with
      | pace | 20 |
    And a daemon
    When I submit task "verse" with
      | model_ref  | large |
      | max_tokens | 20    |
    And I follow task "verse"
    Then stream "verse" ends with end
    And the end of stream "verse" has
      | energy_j    | > 150  |
      | energy_cost | > 0.15 |
    And the metrics have
      | llorch_task_energy_joules_total{pool_id="large"} | energy_j of verse |
    And card 0 has
      | energy_j | > 150 |
    And card 1 has
      | energy_j | absent |
    And every series is in the metrics contract, with its labels and values
    When I get the proof of task "verse"
    Then its body has
      | metrics.energy_j    | > 150  |
      | metrics.energy_cost | > 0.15 |
    When I kill the daemon
    And I start the daemon again
    And I send GET "/v1/tasks/{verse}"
    Then its body has
      | energy_j        | > 150  |
      | energy_cost     | > 0.15 |
      | end.energy_j    | > 150  |
      | end.energy_cost | > 0.15 |
    When I follow task "verse" as "again"
    Then streams "verse" and "again" brought the same bytes

  @LO-504
  Scenario: A task that is canceled says what was taken until then
    Given the cards of the reference box
    And card 0 takes 200 W, by a counter of its own
    And a pool "large" of a model of 20 GiB with
      | pace | 5 |
    And a daemon
    When I submit task "long" with
      | model_ref  | large |
      | max_tokens | 100   |
    And I follow task "long"
    Then stream "long" has 3 tokens
    When I cancel task "long"
    Then stream "long" ends with error CANCELED
    When I kill the daemon
    And I start the daemon again
    And I send GET "/v1/tasks/{long}"
    Then its body has
      | state       | canceled |
      | energy_j    | > 50     |
      | energy_cost | absent   |
    When I get the proof of task "long"
    Then its body has
      | metrics.energy_j | > 50 |

  @LO-627 @LO-504
  Scenario: A session runs out of its joules
    Given the cards of the reference box
    And card 0 takes 200 W, by a counter of its own
    And a pool "large" of a model of 20 GiB with
      | pace | 20 |
    And a daemon
    When I post to "/v1/sessions"
      """
      {"session_id": "33333333-aaaa-4bbb-8ccc-000000000001", "budget": {"joules": 100.5}}
      """
    Then the answer is 201
    And its headers have
      | X-Budget-Joules-Remaining | /^100[.]50*$/ |
    When I submit task "one" with
      | model_ref  | large                                |
      | session_id | 33333333-aaaa-4bbb-8ccc-000000000001 |
      | max_tokens | 20                                   |
    And I follow task "one"
    Then a metrics frame of stream "one" has
      | budget_joules_remaining | 100.5 |
    And stream "one" ends with end
    When I submit task "two" with
      | model_ref  | large                                |
      | session_id | 33333333-aaaa-4bbb-8ccc-000000000001 |
    Then the answer is 429 BUDGET_EXCEEDED
    And its message says "of the budget of 100.5 joules nothing is left"
    When I kill the daemon
    And I start the daemon again
    And I send GET "/v1/sessions/33333333-aaaa-4bbb-8ccc-000000000001"
    Then its body has
      | budget_joules_remaining | 0 |

  @LO-504
  Scenario: Without a counter no energy is told
    Given the cards of the reference box
    And the settings
      | energy | {price_per_kwh: 3600} |
    And a pool "large" of a model of 20 GiB
    And a daemon
    When I submit task "verse" with
      | model_ref | large |
    And I follow task "verse"
    Then stream "verse" ends with end
    And the end of stream "verse" has
      | energy_j    | absent |
      | energy_cost | absent |
    When I get the proof of task "verse"
    Then its body has
      | metrics.tokens_in   | > 0    |
      | metrics.energy_j    | absent |
      | metrics.energy_cost | absent |
