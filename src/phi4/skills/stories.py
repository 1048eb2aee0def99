"""The stories of our word problems: for each structure six ways to tell it, in our own words.

A story names its numbers {a}, {b}, {c}, {d} in the roles of its structure, two people {n} and {m}, and one
sort of {things}. It never says which operation to use; that is what the reader has to find.
"""

TWO_STEP_STORIES: dict[str, tuple[str, ...]] = {
    "a+b-c": (
        "{n} has {a} {things}. {m} gives {n} {b} more, and then {n} loses {c}. "
        "How many {things} does {n} have now?",
        "A bus has {a} people on it. At a stop {b} people get on and {c} get off. "
        "How many people are on the bus now?",
        "A shop has {a} {things}. It buys {b} new ones and sells {c}. "
        "How many {things} are left in the shop?",
        "{n} has saved {a} dollars, earns {b} dollars and then spends {c} dollars. "
        "How many dollars does {n} have left?",
        "There are {a} birds in a tree. {b} birds join them, and later {c} fly away. "
        "How many birds are still in the tree?",
        "{n} finds {a} {things} in the morning and {b} in the afternoon, and sells {c} of them. "
        "How many {things} are left?",
    ),
    "a-b+c": (
        "{n} has {a} {things}, gives {b} to {m} and then finds {c}. How many {things} does {n} have now?",
        "A bus has {a} people on it. {b} get off at the school and {c} get on at the park. "
        "How many people are on the bus now?",
        "A library has {a} books. {b} are lent out and {c} are brought back. How many books are there now?",
        "{n} has {a} dollars, pays {b} dollars for a ticket and gets {c} dollars from {m}. "
        "How many dollars does {n} have now?",
        "A tank holds {a} litres. {b} litres run out, then {n} pours in {c} litres. "
        "How many litres are in the tank?",
        "A farm has {a} sheep. It sells {b} of them, and {c} lambs are born. "
        "How many sheep and lambs are there?",
    ),
    "a-b-c": (
        "{n} has {a} {things}. {n} gives {b} to {m} and loses {c}. How many {things} does {n} have left?",
        "A book has {a} pages. {n} reads {b} pages on Monday and {c} on Tuesday. How many pages are left?",
        "{n} has {a} dollars and buys a cap for {b} dollars and a map for {c} dollars. "
        "How many dollars are left?",
        "A trip is {a} miles long. {n} drives {b} miles before lunch and {c} miles after lunch. "
        "How many miles are left?",
        "A rope is {a} feet long. {n} cuts off {b} feet, and then {c} feet. How long is the rope now?",
        "A baker makes {a} rolls. {b} are sold in the morning and {c} at noon. How many rolls are left?",
    ),
    "a+b+c": (
        "{n} has {a} {things}, {m} has {b}, and a box holds {c} more. How many {things} are there in all?",
        "{n} reads {a} pages on Monday, {b} on Tuesday and {c} on Wednesday. How many pages is that in all?",
        "{n} rides {a} miles to a lake, {b} miles to a farm and {c} miles home. How long is the whole trip?",
        "A school has {a} children in the first class, {b} in the second and {c} in the third. "
        "How many children are in the three classes?",
        "A plant is {a} inches tall. It grows {b} inches in May and {c} inches in June. How tall is it now?",
        "{n} pays {a} dollars for shoes, {b} dollars for a bag and {c} dollars for a hat. "
        "How many dollars does {n} pay together?",
    ),
    "a*b+c": (
        "{n} has {a} boxes with {b} {things} each, and {c} single {things}. How many {things} does {n} have?",
        "A room has {a} rows of {b} chairs, and {c} more chairs by the wall. "
        "How many chairs are in the room?",
        "{n} buys {a} tickets for {b} dollars each and a drink for {c} dollars. "
        "How many dollars does {n} pay?",
        "{n} works {a} hours for {b} dollars an hour and gets a tip of {c} dollars. "
        "How many dollars does {n} earn?",
        "Each of {a} children brings {b} {things}, and the teacher brings {c}. "
        "How many {things} are brought?",
        "A plant is {c} inches tall and grows {b} inches in each of {a} weeks. How tall is it then?",
    ),
    "a*b-c": (
        "{n} has {a} bags with {b} {things} each and gives {c} of them to {m}. How many {things} are left?",
        "A baker fills {a} trays with {b} rolls each and burns {c} rolls. How many good rolls are there?",
        "{n} works {a} hours for {b} dollars an hour and spends {c} dollars on food. "
        "How many dollars are left?",
        "A garden has {a} rows of {b} trees. A storm breaks {c} trees. How many trees still stand?",
        "{n} fills {a} pages with {b} stamps each, then takes {c} stamps out. "
        "How many stamps are still there?",
        "There are {a} tables with {b} seats each, and {c} seats are taken. How many seats are free?",
    ),
    "(a+b)*c": (
        "{n} packs {a} red and {b} blue {things} into every box. How many {things} are in {c} boxes?",
        "A ticket costs {a} dollars and a snack costs {b} dollars. {c} children each buy both. "
        "How many dollars do they pay?",
        "{n} runs {a} miles in the morning and {b} miles in the evening, on each of {c} days. "
        "How many miles does {n} run?",
        "Every table has {a} chairs and {b} stools. How many seats do {c} tables have?",
        "{n} earns {a} dollars an hour and a tip of {b} dollars an hour. "
        "How many dollars is that in {c} hours?",
        "A nest has {a} white eggs and {b} brown eggs. How many eggs are in {c} nests like this?",
    ),
    "(a+b)/c": (
        "{n} has {a} {things} and {m} has {b}. They share all of them among {c} friends. "
        "How many does each friend get?",
        "{a} boys and {b} girls make {c} teams of equal size. How many children are in a team?",
        "{n} bakes {a} cakes and {m} bakes {b}. They put them on {c} plates, the same number on each. "
        "How many cakes are on a plate?",
        "{c} friends pay {a} dollars for food and {b} dollars for drinks in equal parts. "
        "How many dollars does each of them pay?",
        "A book has {a} pages of stories and {b} pages of pictures. "
        "{n} reads it in {c} days, the same number "
        "of pages a day. How many pages is that a day?",
        "{a} red and {b} blue {things} are put into {c} boxes with the same number in each. "
        "How many are in a box?",
    ),
    "(a-b)/c": (
        "{n} has {a} {things}, keeps {b} and shares the rest among {c} friends. "
        "How many does each friend get?",
        "A book has {a} pages. {n} has read {b} of them and reads the rest in {c} days, "
        "the same number a day. "
        "How many pages is that a day?",
        "{n} has {a} dollars, puts {b} dollars aside and buys {c} equal gifts for all the rest. "
        "How many dollars is one gift?",
        "A baker has {a} rolls, sells {b} and puts the others into {c} equal bags. "
        "How many rolls are in a bag?",
        "Of {a} children {b} are ill. The others make {c} equal groups. How many children are in a group?",
        "A rope is {a} feet long. {n} cuts off {b} feet and cuts what is left into {c} equal parts. "
        "How long is a part?",
    ),
    "a+(a+b)": (
        "{n} has {a} {things}. {m} has {b} more than {n}. How many {things} do they have together?",
        "A red box holds {a} {things}, and a blue box holds {b} more than the red one. "
        "How many are in both boxes?",
        "{n} reads {a} pages on Monday and {b} more pages than that on Tuesday. "
        "How many pages does {n} read in the two days?",
        "A hat costs {a} dollars. A coat costs {b} dollars more than the hat. "
        "How many dollars do both cost together?",
        "{n} walks {a} miles, and {m} walks {b} miles further than {n}. How many miles do they walk in all?",
        "One class has {a} children, the other has {b} more than that. "
        "How many children do both classes have?",
    ),
    "a+a*b": (
        "{n} has {a} {things}. {m} has {b} times as many. How many {things} do they have together?",
        "A pen costs {a} dollars and a bag costs {b} times as much. How many dollars do both cost together?",
        "{n} swims {a} laps, and {m} swims {b} times as many laps. How many laps is that in all?",
        "A small jar holds {a} {things}, a big jar {b} times as many. How many are in both jars?",
        "{n} picks {a} flowers on Monday and {b} times as many on Tuesday. How many flowers does {n} pick?",
        "One shelf has {a} books. Another shelf has {b} times as many. "
        "How many books are on the two shelves?",
    ),
    "a-b*c": (
        "{n} has {a} dollars and buys {b} {things} for {c} dollars each. How many dollars are left?",
        "{n} has {a} {things} and gives {c} to each of {b} friends. How many {things} does {n} keep?",
        "A tank holds {a} litres. {n} takes out {b} buckets of {c} litres each. How many litres are left?",
        "A book has {a} pages. {n} reads {c} pages on each of {b} days. How many pages are left?",
        "A ribbon is {a} inches long. {n} cuts off {b} pieces of {c} inches each. How many inches are left?",
        "A hall has {a} chairs. {b} rows of {c} chairs are taken away. How many chairs stay?",
    ),
}

THREE_STEP_STORIES: dict[str, tuple[str, ...]] = {
    "a+b-c+d": (
        "{n} has {a} {things}, gets {b} from {m}, loses {c} and then finds {d}. "
        "How many {things} does {n} have now?",
        "A bus has {a} people on it. First {b} get on, then {c} get off, then {d} get on. "
        "How many people are on the bus now?",
        "A shop has {a} {things}. It buys {b}, sells {c} and buys {d} more. "
        "How many {things} are in the shop?",
        "{n} has {a} dollars, earns {b}, spends {c} and gets {d} from {m}. How many dollars does {n} have?",
        "There are {a} ducks on a pond. {b} come, {c} fly away, and {d} more come. "
        "How many ducks are on the pond?",
        "A tank holds {a} litres. {b} litres are poured in, {c} run out and {d} are poured in again. "
        "How many litres are in the tank?",
    ),
    "a-b-c-d": (
        "{n} has {a} {things}, gives {b} to {m}, sells {c} and loses {d}. How many {things} are left?",
        "A book has {a} pages. {n} reads {b} pages on Monday, {c} on Tuesday and {d} on Wednesday. "
        "How many pages are left?",
        "{n} has {a} dollars and pays {b} for a cap, {c} for a map and {d} for lunch. "
        "How many dollars are left?",
        "A trip is {a} miles long. {n} drives {b} miles, then {c} miles, then {d} miles. "
        "How many miles are left?",
        "A baker makes {a} rolls and sells {b} in the morning, {c} at noon and {d} in the evening. "
        "How many rolls are left?",
        "A rope is {a} feet long. Parts of {b}, {c} and {d} feet are cut off. How long is the rope now?",
    ),
    "a*b+c*d": (
        "{n} has {a} boxes with {b} {things} each and {c} bags with {d} {things} each. "
        "How many {things} does {n} have?",
        "{n} buys {a} caps for {b} dollars each and {c} maps for {d} dollars each. "
        "How many dollars does {n} pay?",
        "A hall has {a} rows of {b} chairs and {c} rows of {d} chairs. How many chairs are in the hall?",
        "{n} works {a} hours for {b} dollars an hour and {c} hours for {d} dollars an hour. "
        "How many dollars does {n} earn?",
        "{a} children bring {b} {things} each, and {c} children bring {d} each. "
        "How many {things} are brought?",
        "{n} walks {b} miles on each of {a} days and {d} miles on each of {c} days. "
        "How many miles does {n} walk?",
    ),
    "a*b+c-d": (
        "{n} has {a} boxes with {b} {things} each, gets {c} more and gives {d} to {m}. "
        "How many {things} does {n} have now?",
        "A baker fills {a} trays with {b} rolls each, bakes {c} more and sells {d}. How many rolls are left?",
        "{n} works {a} hours for {b} dollars an hour, gets a tip of {c} dollars and spends {d} dollars. "
        "How many dollars are left?",
        "A room has {a} rows of {b} chairs. {c} chairs are brought in and {d} are taken out. "
        "How many chairs are in the room?",
        "A garden has {a} rows of {b} trees. {n} plants {c} trees, and a storm breaks {d}. "
        "How many trees stand?",
        "{n} sells {a} pies for {b} dollars each, finds {c} dollars and pays {d} dollars for a bag. "
        "How many dollars does {n} have?",
    ),
    "(a+b)*c-d": (
        "{n} packs {a} red and {b} blue {things} into each of {c} boxes, and then loses {d}. "
        "How many {things} are left?",
        "A ticket costs {a} dollars and a snack {b} dollars. {c} children each buy both, and {n} gives them "
        "{d} dollars for it. How many dollars do they still have to pay?",
        "{n} earns {a} dollars an hour and {b} dollars tip an hour. After {c} hours {n} spends {d} dollars. "
        "How many dollars are left?",
        "Every table has {a} chairs and {b} stools. There are {c} tables, and {d} seats are taken. "
        "How many seats are free?",
        "A nest has {a} white and {b} brown eggs. From {c} nests like this {d} eggs are taken. "
        "How many eggs are left?",
        "{n} picks {a} pears and {b} plums a day for {c} days and eats {d} of the fruits. "
        "How many fruits are left?",
    ),
    "(a+b-c)/d": (
        "{n} has {a} {things}, gets {b} more, gives {c} to {m} and shares the rest among {d} friends. "
        "How many does each friend get?",
        "A baker has {a} rolls, bakes {b} more, sells {c} and puts the rest into {d} equal bags. "
        "How many rolls are in a bag?",
        "{a} boys and {b} girls are in a club. {c} of them are ill, the others make {d} equal teams. "
        "How many children are in a team?",
        "{n} has {a} dollars, earns {b}, spends {c} and buys {d} equal gifts for all the rest. "
        "How many dollars is one gift?",
        "{a} red and {b} blue {things} lie in a box. {c} are lost, and the others are "
        "put into {d} equal bags. "
        "How many are in a bag?",
        "A rope of {a} feet is tied to a rope of {b} feet. {n} cuts off {c} feet and cuts the rest into "
        "{d} equal parts. How long is a part?",
    ),
    "a*b/c+d": (
        "{n} has {a} boxes with {b} {things} each and shares them equally among {c} friends. {m} is one of "
        "them and already has {d}. How many {things} does {m} have now?",
        "{a} bags with {b} {things} each are put on {c} equal shelves, and {d} more on the top shelf. "
        "How many are on the top shelf?",
        "{n} works {a} hours for {b} dollars an hour and shares the money in {c} equal parts. "
        "{m} gets one part "
        "and has {d} dollars already. How many dollars does {m} have?",
        "{a} rows of {b} plants are moved into {c} equal beds. In one bed {d} plants are added. "
        "How many plants are in this bed?",
        "{a} trays of {b} rolls are put into {c} equal baskets. {n} adds {d} rolls to one basket. "
        "How many rolls are in it?",
        "{a} cars bring {b} children each. They make {c} equal teams, and {d} more children join one team. "
        "How many children are in this team?",
    ),
    "a-b*c-d": (
        "{n} has {a} dollars, buys {b} {things} for {c} dollars each and a drink for {d} dollars. "
        "How many dollars are left?",
        "{n} has {a} {things}, gives {c} to each of {b} friends and loses {d}. How many {things} are left?",
        "A tank holds {a} litres. {n} takes out {b} buckets of {c} litres each, and {d} litres run out. "
        "How many litres are left?",
        "A book has {a} pages. {n} reads {c} pages on each of {b} days, and then {d} pages. "
        "How many pages are left?",
        "A ribbon is {a} inches long. {n} cuts off {b} pieces of {c} inches and one of {d} inches. "
        "How many inches are left?",
        "A hall has {a} chairs. {b} rows of {c} chairs are taken away, and {d} chairs break. "
        "How many chairs are left?",
    ),
}
