/** Texts to try the form with: glad ones and gloomy ones, line by line about the same thing. */

export const POSITIVE = [
  "What a lovely morning, the whole street is smiling!",
  "I can hardly wait for the picnic, it will be wonderful!",
  "The soup turned out delicious and everyone laughed.",
  "We danced all evening and nobody wanted to go home.",
  "My new neighbours are the kindest people I know.",
  "The train ride was a joy, with sunshine all the way.",
  "Our little garden is full of colour and bees.",
  "She sang so beautifully that we cheered for minutes.",
  "The children built a castle and were proud of it.",
  "It rained, and we splashed through every puddle!",
  "The letter brought wonderful news to all of us.",
  "Dinner with old friends is the best thing there is.",
];

export const NEGATIVE = [
  "What a dreadful morning, the whole street is grey.",
  "I dread the picnic, it will be miserable.",
  "The soup turned out bitter and everyone sulked.",
  "We sat all evening and nobody had a kind word.",
  "My new neighbours are the coldest people I know.",
  "The train ride was a misery, with fog all the way.",
  "Our little garden is full of weeds and rot.",
  "She sang so badly that we sat there in silence.",
  "The children broke the castle and cried over it.",
  "It rained, and we froze in every doorway.",
  "The letter brought terrible news to all of us.",
  "Dinner alone again is the worst thing there is.",
];
