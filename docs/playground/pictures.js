// Colours: viridis at five points; white at 0 with red above and blue below.
export const VIRIDIS = [
  [68, 1, 84],
  [59, 82, 139],
  [33, 145, 140],
  [94, 201, 98],
  [253, 231, 37],
];
export const SIGNED = [
  [33, 102, 172],
  [146, 197, 222],
  [247, 247, 247],
  [244, 165, 130],
  [178, 24, 43],
];
export const GREY = [
  [0, 0, 0],
  [255, 255, 255],
];
function colour(stops, share) {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  return stops[low].map((value, k) => value + (place - low) * (stops[low + 1][k] - value));
}

/** Draw a map of values; `low` has the first colour, `high` the last. */
export function drawPicture(context, values, stops, low, high) {
  const side = Math.sqrt(values.length);
  const picture = context.createImageData(side, side);
  values.forEach((value, p) => {
    picture.data.set([...colour(stops, (value - low) / (high - low)), 255], 4 * p);
  });
  context.putImageData(picture, 0, 0);
}
